"""The python_gpt recipe: which files are read, its windows, its network."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from recipes.python_gpt.data import PythonData
from recipes.python_gpt.module import GPTModule
from recipes.python_gpt.network import GPT, Block
from recipes.python_gpt.source import find_files, read_files, standard_library
from recipes.python_gpt.windows import RandomWindows, Windows
from recipes.shared.settings import SettingError
from tests.recipes.runs import fit, history, only_run


def write_source(root: Path, count: int = 60) -> Path:
    """Files with different texts; 60 of them fill each set."""
    for index in range(count):
        path = root / f"package{index % 3}" / f"module{index}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"x{index} = {index}\n")
    return root


def names(paths: list[Path]) -> set[str]:
    return {path.name for path in paths}


def test_a_file_belongs_to_the_set_that_its_path_says(folder: Path) -> None:
    files = find_files(write_source(folder / "a"))
    # Written down once: a split that moves makes old and new results incomparable.
    assert [len(files[name]) for name in ("train", "val", "test")] == [45, 4, 11]
    assert {path.name for path in files["test"] if path.parent.name == "package0"} == {
        "module3.py",
        "module39.py",
        "module45.py",
    }
    assert all(paths == sorted(paths) for paths in files.values())
    # elsewhere, with more files: none of the old ones moves
    more = find_files(write_source(folder / "b", 90))
    for name, paths in files.items():
        assert names(paths) == {f"module{index}.py" for index in range(60)} & names(more[name])
    assert read_files(files["val"]).decode() == "".join(path.read_text() for path in files["val"])


def test_tests_and_installed_packages_are_left_out(folder: Path) -> None:
    write_source(folder / "lib")
    before = find_files(folder / "lib")
    for left_out in ("site-packages", "dist-packages", "test", "package0/tests", "idlelib/idle_test"):
        write_source(folder / "lib" / left_out)
    (folder / "lib" / "nowhere.py").symlink_to(folder / "absent.py")
    (folder / "lib" / "data.txt").write_text("no source")
    assert find_files(folder / "lib") == before


def test_the_standard_library_of_this_python_is_read() -> None:
    files = find_files(standard_library())
    assert Path(pytest.__file__) not in [path for paths in files.values() for path in paths]
    assert {"os.py", "dataclasses.py", "heapq.py"} <= set.union(*map(names, files.values()))
    sizes = {name: len(read_files(paths)) for name, paths in files.items()}
    assert 0.7 < sizes["train"] / sum(sizes.values()) < 0.9
    assert min(sizes.values()) > 100_000


def test_the_data_are_described_in_the_run(client: MlflowClient, folder: Path) -> None:
    root = write_source(folder / "lib")
    fit("python_gpt", "adamloss", f"--data.root={root}")
    corpus = only_run(client, "python_gpt").data.params["corpus"]
    size = sum(len(read_files([path])) for path in find_files(root)["val"])
    assert corpus.startswith("lib: train 45 files, ")
    assert f"val 4 files, {size} bytes, test 11 files" in corpus


@pytest.mark.parametrize(("count", "message"), [
    (0, r"Found no Python source in .*lib\. An installation without it .* --data\.root DIR"),
    (20, r"Invalid context=60\. Must be below the \d+ bytes of the val set, which is \d of the 20 \*\.py files"),
])  # fmt: skip
def test_missing_or_too_little_source_is_refused(folder: Path, count: int, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        PythonData(str(write_source(folder / "lib", count)), context=60).setup("fit")


def test_a_window_is_bytes_and_the_bytes_that_follow_them() -> None:
    text = torch.arange(250, 0, -1, dtype=torch.uint8)
    windows = Windows(text, 4)
    assert len(windows) == 246
    inputs, targets = windows.__getitems__([0, 245])
    assert inputs.tolist() == [[250, 249, 248, 247], [5, 4, 3, 2]]
    assert targets.tolist() == [[249, 248, 247, 246], [4, 3, 2, 1]]
    assert [part.tolist() for part in windows[245]] == [[5, 4, 3, 2], [4, 3, 2, 1]]
    assert windows.spread(6) == [0, 49, 98, 147, 196, 245]
    assert Windows(text[:6], 4).spread(9) == [0, 1]
    with pytest.raises(ValueError, match=r"Invalid context=250\. Must be below the 250 bytes"):
        Windows(text, 250)


@pytest.mark.parametrize(("count", "ranks"), [(12, 1), (12, 3), (13, 2)])
def test_random_windows_of_all_ranks_are_those_of_one_process(count: int, ranks: int) -> None:
    windows = Windows(torch.zeros(1000, dtype=torch.uint8), 10)
    single = RandomWindows(windows, count, seed=3)
    samplers = [RandomWindows(windows, count, ranks, rank, seed=3) for rank in range(ranks)]
    epochs = []
    for epoch in range(2):
        for sampler in (single, *samplers):
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in samplers]
        assert [len(starts) for starts in dealt] == [len(sampler) for sampler in samplers] == [count // ranks] * ranks
        epochs.append(list(single))
        assert [start for step in zip(*dealt, strict=True) for start in step] == epochs[-1][: count // ranks * ranks]
    assert epochs[0] != epochs[1]
    assert list(RandomWindows(windows, count, seed=4)) != epochs[0]


def test_random_windows_reach_every_start() -> None:
    starts = list(RandomWindows(Windows(torch.zeros(12, dtype=torch.uint8), 2), 1000))
    assert sorted(set(starts)) == list(range(10))


def test_loaders_give_windows_by_the_seed_of_the_run_and_the_same_for_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = PythonData(str(write_source(folder)), context=8, train_windows=20, eval_windows=5, batch_size=20)
        data.setup("fit")
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        batches.append([next(iter(loader))[0] for loader in loaders])
    (train, *evaluated), (again, *_), (other, *evaluated_again) = batches
    assert train.shape == (20, 8)
    assert torch.equal(train, again)
    assert not torch.equal(train, other)
    assert all(part.shape == (5, 8) for part in evaluated)
    assert all(torch.equal(one, two) for one, two in zip(evaluated, evaluated_again, strict=True))
    val = b"".join(path.read_bytes() for path in find_files(folder)["val"])
    assert bytes(evaluated[0][0].tolist()) == val[:8]  # from the first window to the last
    assert bytes(evaluated[0][-1].tolist()) == val[-9:-1]


def test_the_same_seed_gives_the_same_run(client: MlflowClient) -> None:
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        fit("python_gpt", "adamloss", f"--seed_everything={seed}", f"--trainer.logger.experiment_name={name}")
    one, two, three = (history(client, only_run(client, name), "train/loss") for name in ("one", "two", "three"))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


def test_a_byte_sees_those_before_it_alone() -> None:
    torch.manual_seed(0)
    network = GPT(context=8, width=16, depth=2, heads=4)
    tokens = torch.randint(256, (3, 8))
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % 256
    changed = (network(tokens) != network(other)).any(dim=2).any(dim=0)
    assert changed.tolist() == [False] * 5 + [True] * 3
    torch.testing.assert_close(network(tokens[:, :4]), network(tokens)[:, :4])  # a shorter window will do


def test_a_block_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Block(width=12, heads=3)
    theirs = nn.TransformerEncoderLayer(12, 3, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    attention = theirs.self_attn
    attention.in_proj_weight.data, attention.in_proj_bias.data = (
        value.data for value in ours.attention.qkv.parameters()
    )
    pairs = ((attention.out_proj, ours.attention.proj), (theirs.linear1, ours.mlp[0]), (theirs.linear2, ours.mlp[2]))
    for their, our in pairs:
        their.load_state_dict(our.state_dict())
    x = torch.randn(2, 7, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask, is_causal=True))


def test_the_embedding_is_tied_and_the_first_loss_near_that_of_a_guess() -> None:
    torch.manual_seed(0)
    module = GPTModule(context=32, width=32, depth=3, heads=2)
    # embedding, positions; norms, attention and MLP of each block; the last norm
    parameters = 256 * 32 + 32 * 32 + 3 * (4 * 32 + 4 * 32 * 33 + 2 * 4 * 32 * 32 + 5 * 32) + 2 * 32
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    tokens = torch.randint(256, (8, 33))
    loss = module.loss(module(tokens[:, :-1]), tokens[:, 1:])
    assert loss.item() == pytest.approx(np.log(256), abs=0.1)
    ends = [block.mlp[2].weight.std().item() for block in module.network.blocks]
    assert ends == pytest.approx([0.02 / 6**0.5] * 3, rel=0.05)  # 4,096 draws


def test_training_learns_what_follows(folder: Path) -> None:
    for index in range(60):
        (folder / f"module{index}.py").write_bytes(b"abcdefgh" * 8)
    pl.seed_everything(1)
    data = PythonData(str(folder), context=8, train_windows=800, eval_windows=8)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Tuned(context=8, width=16, depth=1, heads=2), datamodule=data)
    assert trainer.callback_metrics["val/loss"] < 0.5  # each byte alone has log 8 = 2.08


class Tuned(GPTModule):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.03)


@pytest.mark.parametrize("make", [
    lambda: GPTModule(width=0), lambda: GPTModule(width=30), lambda: GPTModule(depth=0), lambda: PythonData(context=0),
    lambda: PythonData(train_windows=0), lambda: PythonData(eval_windows=0), lambda: PythonData(batch_size=0),
])  # fmt: skip
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=\d+\. Must be (>= 1|a multiple of heads=4)\."):
        make()
