"""The CIFAR-100 recipe: its data in the official format, its network, its runs, its report beside the paper."""

import hashlib
import os
import pickle
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Trainer
from mlflow.tracking import MlflowClient
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from adaloss_lightning.tracking.console.app import main as adaloss
from adaloss_lightning.tracking.reports.results import Cell, Results
from recipes.shared.data import split_indices
from recipes.shared.settings import SettingError
from recipes.vit_cifar100 import data as vit_data
from recipes.vit_cifar100.data import CIFAR100, VAL_SHARE, CIFAR100Data, make_synthetic, read_cifar100
from recipes.vit_cifar100.download import DownloadError, download
from recipes.vit_cifar100.module import FineTuning
from recipes.vit_cifar100.report import main
from recipes.vit_cifar100.table1 import B0S, PAPER, VIT, Accuracy, Comparison
from tests.limits import HANG_S
from tests.ports import free_port
from tests.recipes.cifar_archive import TEST_PER_CLASS, TRAIN_PER_CLASS, image, install, labels, serve
from tests.recipes.runs import SMOKE, TINY, config, fit, only_run, run_recipe
from tests.recipes.runs import VIT as OPTIONS


def tiny_network(**options: object) -> FineTuning:
    return FineTuning(pretrained=False, options={**OPTIONS, **options})


def connected(data: CIFAR100Data, network: FineTuning | None = None) -> CIFAR100Data:
    """What a trainer does with both before it asks for loaders."""
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer.strategy.connect(network or tiny_network())
    data.prepare_data()
    data.setup("fit")
    return data


def split(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    train, val, test = split_indices(targets, VAL_SHARE, 0.0)
    assert not len(test)
    return train, val


def test_split_is_fixed_whole_and_the_papers() -> None:
    targets = np.random.RandomState(3).permutation(np.repeat(np.arange(100), 500))
    train, val = split(targets)
    assert (len(train), len(val)) == (45_000, 5_000)
    assert sorted([*train, *val]) == list(range(50_000))
    assert np.bincount(targets[train]).tolist() == [450] * 100
    # Numbers written down once: a split that moves makes old and new results incomparable.
    assert val[:8].tolist() == [13, 16, 19, 20, 38, 39, 56, 65]
    np.random.seed(5)
    assert np.array_equal(split(targets)[1], val)


def test_read_cifar100_reads_the_official_format_and_fetches_a_spoilt_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    archive = install(monkeypatch, folder)
    for pixels, per_class in zip(read_cifar100(folder), (TRAIN_PER_CLASS, TEST_PER_CLASS), strict=True):
        images, classes = pixels
        assert classes.tolist() == labels(per_class).tolist()
        expected = [image(index, label) for index, label in enumerate(labels(per_class))]
        np.testing.assert_array_equal(images, expected)
    content = archive.read_bytes()
    archive.unlink()
    assert len(read_cifar100(folder)[1][1]) == 100  # from the extracted files
    (folder / "cifar-100-python" / "train").write_bytes(b"spoilt")
    with serve(content, lambda request: len(content) // 2 if request == 1 else None) as (url, asked):
        monkeypatch.setattr(CIFAR100, "url", url)
        assert len(read_cifar100(folder)[0][1]) == 1000
    assert asked == ["", f"bytes={len(content) // 2}-"]


@pytest.mark.parametrize("content", [b"", b"half of it"])
def test_spoilt_archive_without_network_is_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    archive = install(monkeypatch, tmp_path)
    monkeypatch.setattr(vit_data, "download", partial(download, attempts=1))
    archive.write_bytes(content)
    message = rf"{archive} is there with {len(content)} bytes, but is not whole: replace it by the file whose md5 is"
    with pytest.raises(DownloadError, match=message):
        read_cifar100(tmp_path)
    assert archive.read_bytes() == content


def test_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("mine")
    with pytest.raises(DownloadError, match=r"Invalid folder .*root: File exists\. Give another one with --data\.root"):
        read_cifar100(tmp_path / "root")


@pytest.mark.parametrize(("fine_labels", "message"), [
    ([*labels(10).tolist()[:-1], 149], r"Invalid label 149 of image 999 in .*train\. Must be 0 to 99"),
    ([*labels(10).tolist()[:-1], 0], r"train: 9 images of class 99\. Must be >= 10, of which 10% are for validation"),
])  # fmt: skip
def test_files_with_other_labels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine_labels: list[int], message: str
) -> None:
    install(monkeypatch, tmp_path)
    read_cifar100(tmp_path)
    train = tmp_path / "cifar-100-python" / "train"
    train.write_bytes(pickle.dumps(pickle.loads(train.read_bytes()) | {"fine_labels": fine_labels}))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", hashlib.md5(train.read_bytes()).hexdigest()]])
    with pytest.raises(SettingError, match=message):
        read_cifar100(tmp_path)


CONTENT = np.random.RandomState(0).bytes(600_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def test_download_resumes_where_the_connection_broke(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "file"
    with serve(CONTENT, lambda request: 250_000 if request < 3 else None) as (url, asked):
        download(url, file, MD5, pause_s=0.01)
        download(url, file, MD5)  # nothing to do
    assert file.read_bytes() == CONTENT
    assert asked == ["", "bytes=250000-", "bytes=500000-"]
    assert list(file.parent.iterdir()) == [file]


def test_later_download_resumes_too(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with serve(CONTENT, lambda request: {1: 100_000, 2: 0, 3: 0}.get(request)) as (url, asked):
        with pytest.raises(DownloadError, match=r"broke after 100000 of 600000 bytes\. 100000 bytes are kept in"):
            download(url, file, MD5, attempts=2, pause_s=0.01)
        assert not file.exists()
        download(url, file, MD5)
    assert file.read_bytes() == CONTENT
    assert asked == ["", "bytes=100000-", "bytes=100000-", "bytes=100000-"]


def test_download_takes_a_whole_part_and_starts_over_without_ranges(tmp_path: Path) -> None:
    (tmp_path / "whole.part").write_bytes(CONTENT)
    with serve(CONTENT, lambda request: None) as (url, _):
        download(url, tmp_path / "whole", MD5)
    with serve(CONTENT, lambda request: 9 if request == 1 else None, ranges=False) as (url, _):
        download(url, tmp_path / "file", MD5, pause_s=0.01)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "file").read_bytes() == CONTENT


def test_download_that_fails_says_what_to_do(tmp_path: Path) -> None:
    with serve(CONTENT, lambda request: None) as (url, _):
        with pytest.raises(DownloadError, match=r"Invalid md5 of http.*Must be 0123\. The file was removed"):
            download(url, tmp_path / "file", "0123")
        assert not list(tmp_path.iterdir())
    with pytest.raises(DownloadError, match=r"0 bytes are kept.*Or put the file at .*file by other means"):
        download(url, tmp_path / "file", MD5, attempts=2, pause_s=0.01)
    with serve(b"", lambda request: None) as (url, asked):  # answers 416, which is no reason to try again
        with pytest.raises(DownloadError, match=r"Or put the file at .*file by other means"):
            download(url, tmp_path / "file", MD5)
        assert len(asked) == 1


def test_evaluation_images_are_what_the_network_configures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path)
    network = tiny_network()
    data = connected(CIFAR100Data(str(tmp_path), eval_batch_size=7, num_workers=0), network)
    assert data.trainer is not None
    images, classes = next(iter(data.val_dataloader()))
    assert images.dtype == torch.uint8
    val = split(labels(TRAIN_PER_CLASS))[1]
    assert classes.tolist() == labels(TRAIN_PER_CLASS)[val[:7]].tolist()
    seen: list[torch.Tensor] = []
    network.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(images)
    # crop_pct 0.9 of size 32: the short side becomes int(32 / 0.9) = 35, and round(1.5) = 2 pixels are left out first.
    large = Image.fromarray(image(int(val[2]), int(classes[2]))).resize((35, 35), Image.Resampling.BICUBIC)
    middle = np.asarray(large, dtype=np.float64)[2:34, 2:34].transpose(2, 0, 1)
    np.testing.assert_allclose(seen[0][2], (middle / 255 - 0.5) / 0.5, atol=1e-6)  # float32


@pytest.mark.process
def test_worker_processes_give_the_same_batches() -> None:
    batches = []
    for workers in (0, 1):
        data = connected(CIFAR100Data("", "synthetic", synthetic_per_class=10, num_workers=workers))
        loader = data.test_dataloader()
        assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (workers, workers > 0, False)
        batches.append(list(loader))
    for (images, classes), (others, same) in zip(*batches, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(classes, same)


def test_training_images_are_not_augmented_where_timms_options_say_so() -> None:
    data = connected(CIFAR100Data("", "synthetic", 10, num_workers=0, train_transform={"no_aug": True}))
    pixels, targets = make_synthetic(10)[0]
    first = split(targets)[0][:64]
    images, classes = next(iter(DataLoader(data.train_dataloader().dataset, 64)))
    np.testing.assert_array_equal(images.numpy(), pixels[first].transpose(0, 3, 1, 2))  # 32 to 32: nothing to do
    assert classes.tolist() == targets[first].tolist()


def test_defaults_are_those_of_the_paper() -> None:
    network = FineTuning(pretrained=False)
    expected = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9, "mean": (0.5, 0.5, 0.5)}
    assert expected.items() <= network.data_config.items()
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_704_164  # ViT-S/16 with 100 classes
    assert CIFAR100Data().batch_size == 64


@pytest.mark.parametrize("make", [
    lambda: CIFAR100Data(batch_size=0), lambda: CIFAR100Data(eval_batch_size=0), lambda: CIFAR100Data(num_workers=-1),
    lambda: CIFAR100Data(synthetic_per_class=9),
])  # fmt: skip
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=-?\d+\. Must be >= \d+\."):
        make()


def test_pretrained_weights_can_come_from_a_file(tmp_path: Path) -> None:
    source = timm.create_model(VIT, num_classes=1000, **OPTIONS)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    overlay = {"file": str(tmp_path / "weights.pt"), "custom_load": False}
    network = FineTuning(pretrained=True, options={**OPTIONS, "pretrained_cfg_overlay": overlay})
    loaded = network.network.state_dict()
    assert loaded["head.weight"].shape == (100, 16)
    for name, value in source.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(loaded[name], value), name


def test_fit_on_the_archive_is_tracked(client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, folder / "data")
    fit("vit_cifar100", "adagrad_norm", "--data.source=cifar100")
    params = only_run(client).data.params
    expected = {"model.name": VIT, "data.source": "cifar100", "lr": "0.1", "steps": "3"}
    expected |= {"optimizer.weight_decay": "0.0001", "optimizer.granularity": "channel"}
    assert expected.items() <= params.items()
    assert params["machine"].startswith("1 x ")


def test_smoke_preset_needs_no_network(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    run_recipe("vit_cifar100", "fit", config("vit_cifar100", "adaloss"), SMOKE, "--trainer.max_epochs=1")
    assert only_run(client).data.params["data.source"] == "synthetic"


def test_precision_memory_format_and_compilation_are_options(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled(self, backend="eager"))  # needs no C++ compiler
    options = ["--model.compile=true", "--model.channels_last=true", "--trainer.precision=bf16-mixed"]
    fit("vit_cifar100", "adaloss", *options)
    run = only_run(client)
    assert run.data.params["trainer.precision"] == "bf16-mixed"
    (file,) = folder.glob("mlruns/**/*.ckpt")
    state = torch.load(file, weights_only=True)["state_dict"]
    assert state.keys() == tiny_network().state_dict().keys()
    assert state["network.patch_embed.proj.weight"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.process
def test_two_processes_train_as_one_run(client: MlflowClient) -> None:
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=32"]
    command = ["fit", config("vit_cifar100", "adaloss"), *TINY["vit_cifar100"], *options]
    subprocess.run(
        [sys.executable, "-m", "recipes.vit_cifar100", *command], check=True, stderr=subprocess.DEVNULL, timeout=HANG_S,
        env=os.environ | {"MASTER_PORT": str(free_port())},
    )  # fmt: skip
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.params["machine"].startswith("2 x ")
    assert "test/acc" in run.data.metrics


def test_report_of_a_sweep_stands_beside_the_paper(client: MlflowClient, folder: Path) -> None:
    sweep = ["--methods", "adaloss,adamw", "--b0", "1", "--seeds", "1,2"]
    assert adaloss(["sweep", "--recipe", "vit_cifar100", *sweep, "--", *TINY["vit_cifar100"]]) == 0
    main(["--experiment", "vit_cifar100", "--out", str(folder / "out")])
    assert (folder / "out" / "table1.png").stat().st_size > 10_000
    lines = (folder / "out" / "table1.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| 1 |")]
    experiment = client.get_experiment_by_name("vit_cifar100").experiment_id
    runs = client.search_runs([experiment], "params.method = 'adaloss' and params.b0 = '1.0'")
    values = [100 * run.data.metrics["test/acc"] for run in runs]
    ours = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert row.startswith(f"| 1 | 90.58 ± 0.12 | {ours} | 89.33 ± 0.02 | not run | 83.21 ± 0.81 | not run |")
    assert "- data.source is synthetic, in Table 1 cifar100" in lines
    assert "- steps is 3, in Table 1 7040" in lines
    assert "What the paper says about Table 1 is not tested by these runs." in lines
    (titles,) = [line for line in lines if line.startswith("| b0 |")]
    assert "AdamW" in titles


def table1(change: dict[tuple[str, float], Cell]) -> Comparison:
    """Results that are the paper's own means, three equal runs each, but for `change`."""
    cells = {
        (method, b0): Cell([value.mean / 100] * 3)
        if isinstance(value, Accuracy)
        else Cell(gaps=dict.fromkeys("123", "diverged"))
        for method, row in PAPER[VIT].items()
        for b0, value in row.items()
    }
    results = Results("e", "test/acc", list(PAPER[VIT]), list(B0S), ["1", "2", "3"], cells | change, None)
    return Comparison(results, PAPER[VIT], [VIT], ["m"], 1.0, [])
