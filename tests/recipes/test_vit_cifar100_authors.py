"""The `authors` preset of the CIFAR-100 recipe: its images, its AdaGrad-Norm, and the runs that repeat Table 1."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image
from torch import nn

from adaloss_lightning.optim.adagrad_norm import CHANNELS
from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.reports.results import Cell, Results
from adaloss_lightning.tracking.sweeps.project import Project
from recipes.shared.params import run_params
from recipes.vit_cifar100.authors import AuthorsAdaGradNorm
from recipes.vit_cifar100.data import CIFAR100Data, make_synthetic
from recipes.vit_cifar100.module import FineTuning
from recipes.vit_cifar100.report import claims
from recipes.vit_cifar100.table1 import METHODS, PAPER, VIT, Comparison, differences
from tests.recipes.runs import RECIPES, fit, only_run
from tests.recipes.runs import VIT as OPTIONS
from tests.recipes.test_vit_cifar100 import connected

PRESET = RECIPES / "vit_cifar100" / "presets" / "authors.yaml"
IMAGES = yaml.safe_load(PRESET.read_text())["model"]["images"]
BILINEAR = Image.Resampling.BILINEAR


def network(side: int) -> FineTuning:
    return FineTuning(pretrained=False, options={**OPTIONS, "img_size": side}, images=IMAGES)


def chw(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def test_evaluation_images_are_the_middle_of_256_in_cifars_units() -> None:
    model = network(224)
    data = connected(CIFAR100Data("", "synthetic", 10, eval_batch_size=2, num_workers=0), model)
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(next(iter(data.test_dataloader()))[0])
    large = Image.fromarray(make_synthetic(10)[1][0][1]).resize((256, 256), BILINEAR)
    mean, std = (np.reshape(one, (3, 1, 1)) for one in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))
    np.testing.assert_allclose(seen[0][1], (chw(large)[:, 16:240, 16:240] / 255 - mean) / std, atol=1e-6)  # float32


def test_training_images_are_random_crops_of_the_resized_and_flipped() -> None:
    data = connected(CIFAR100Data("", "synthetic", 10, num_workers=0, augment="crop"), network(32))
    train = data.sets["train"]
    large = chw(Image.fromarray(train.images[3]).resize((36, 36), BILINEAR))  # 32 / 0.875 = 36.6, and timm rounds down
    crops = {
        (top, left, flip): large[:, top : top + 32, left : left + 32][:, :, :: -1 if flip else 1]
        for top in range(5) for left in range(5) for flip in (False, True)
    }  # fmt: skip
    torch.manual_seed(0)
    images = [train[3][0] for _ in range(100)]
    drawn = [[key for key, crop in crops.items() if np.array_equal(crop, image)] for image in images]
    assert all(len(keys) == 1 for keys in drawn)
    for part in zip(*(keys[0] for keys in drawn), strict=True):
        assert len(set(part)) in (2, 5)  # all five places of 32 in 36, both ways, both flips


def test_split_by_seed_gives_each_seed_other_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    def validation(seed: int, split_by_seed: bool) -> np.ndarray:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        images = connected(CIFAR100Data("", "synthetic", 10, num_workers=0, split_by_seed=split_by_seed)).sets["val"]
        assert np.bincount(images.labels).tolist() == [1] * 100
        return np.asarray(images.images)

    first = validation(1, split_by_seed=True)
    assert np.array_equal(validation(1, split_by_seed=True), first)
    assert not np.array_equal(validation(2, split_by_seed=True), first)
    assert np.array_equal(validation(1, split_by_seed=False), validation(2, split_by_seed=False))


def test_timms_options_are_refused_with_another_transform() -> None:
    with pytest.raises(ValueError, match=r"Invalid train_transform=.*'no_aug'.* with augment=crop\. Must be left out"):
        CIFAR100Data(augment="crop", train_transform={"no_aug": True})


# As in a ViT; then biases after a matrix of thrice as many rows, of as many as do not divide, and a frozen matrix.
SHAPES = [
    (1, 1, 6), (1, 3, 6), (6, 3, 2, 2), (6,), (6,), (18, 6), (18,), (6,), (6, 6), (4,), (5, 6), (4, 6), (4,),
]  # fmt: skip
FROZEN = 10


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]


def train(optimizer: AuthorsAdaGradNorm, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for index, p in enumerate(params):
            generator = torch.Generator().manual_seed(100 * step + index)
            gradient = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = None if index == FROZEN else gradient
        optimizer.step()


def slow(steps: int, lr: float, b0: float, r: float) -> list[np.ndarray]:
    """What the authors' code computes, number by number: each has a sum of its own, and the order matters."""
    weights = [p.detach().numpy().copy() for p in parameters()]
    sums = [np.full(shape, b0**2) for shape in SHAPES]
    for step in range(steps):
        rows: list[float] = []
        for index, (w, total) in enumerate(zip(weights, sums, strict=True)):
            if index == FROZEN:
                continue
            generator = torch.Generator().manual_seed(100 * step + index)
            g = torch.randn(w.shape, dtype=torch.float64, generator=generator).numpy()
            if w.ndim in (2, 4):
                rows = [sum(float(x) ** 2 for x in row.ravel()) for row in g]
                for i, norm in enumerate(rows):
                    total[i] += norm
            else:
                times, rest = divmod(len(rows), len(w))
                if w.ndim == 1 and not rest:
                    for j in range(len(w)):
                        total[j] += sum(rows[j * times : (j + 1) * times]) / times
                total += g**2
            w -= lr * g / (np.sqrt(total) + 1e-10)
            w -= lr * r * g
    return weights


@pytest.mark.parametrize("on_host", [True, False])
def test_authors_adagrad_norm_follows_their_code(on_host: bool) -> None:
    params = parameters()
    optimizer = AuthorsAdaGradNorm(params, lr=0.1, b0=0.5, undivided=0.01)
    optimizer.host_arithmetic = on_host  # False: as on an accelerator
    train(optimizer, params, range(5))
    for p, expected in zip(params, slow(5, lr=0.1, b0=0.5, r=0.01), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-8)  # their 1e-10 beside b


def test_authors_adagrad_norm_resumes_bit_for_bit() -> None:
    whole, params = parameters(), parameters()
    train(AuthorsAdaGradNorm(whole, b0=0.5), whole, range(4))
    first, resumed = AuthorsAdaGradNorm(params, b0=0.5), AuthorsAdaGradNorm(params, b0=7.0, undivided=3.0)
    shapes = [tuple(b2.shape) for b2 in first.param_groups[0][CHANNELS]]
    assert shapes == [shape[:1] if len(shape) in (2, 4) else shape for shape in SHAPES]
    train(first, params, range(2))
    resumed.load_state_dict(first.state_dict())
    train(resumed, params, range(2, 4))
    assert all(torch.equal(one, other) for one, other in zip(whole, params, strict=True))


def test_authors_adagrad_norm_refuses_a_negative_share() -> None:
    with pytest.raises(ValueError, match=r"Invalid undivided=-1"):
        AuthorsAdaGradNorm(parameters(), undivided=-1.0)


def test_vit_has_its_parameters_in_the_order_that_the_rule_needs() -> None:
    rows = None
    for name, p in timm.create_model(VIT, **OPTIONS).named_parameters():
        if p.dim() in (2, 4):
            rows = len(p)
        else:
            assert rows == (None if p.dim() == 3 else len(p)), name


def test_preset_makes_every_method_the_experiment() -> None:
    project = Project.find("vit_cifar100")
    assert "authors" not in project.configs
    assert METHODS.keys() == {*PAPER[VIT], "adagrad_norm_authors"}
    for method in METHODS:
        settings = project.settings(Point(method, "1", "1"), [f"--config={PRESET}"])
        params = {name: str(value) for name, value in run_params("vit_cifar100", settings).items()}
        assert differences([params | {"steps": "7040"}]) == []
        assert len(differences([params | {"steps": "7040"} | dict.fromkeys(METHODS[method], "2")])) == len(
            METHODS[method]
        )


def test_preset_trains_after_a_methods_file(client: MlflowClient, folder: Path) -> None:
    fit("vit_cifar100", "adaloss", f"--config={PRESET}")
    params = only_run(client).data.params
    expected = {"data.augment": "crop", "data.split_by_seed": "True", "model.images.crop_pct": "0.875"}
    assert expected.items() <= params.items()
    smoke = {"data.source", "model.pretrained", "steps", "trainer.max_epochs", "trainer.limit_train_batches"}
    smoke |= {f"model.options.{name}" for name in OPTIONS}
    assert {one.partition(" is ")[0] for one in differences([params])} == smoke


SAME = {
    "model.name": VIT, "model.pretrained": "True", "data.source": "cifar100", "steps": "7040", "lr": "0.1",
    "trainer.max_epochs": "10", "trainer.precision": "32-true", "data.augment": "crop", "data.split_by_seed": "True",
    "model.images.mean": "[0.5071, 0.4867, 0.4408]", "model.images.std": "[0.2675, 0.2565, 0.2761]",
    "model.images.interpolation": "bilinear", "model.images.crop_pct": "0.875", "method": "adaloss",
    "optimizer": "AdaLoss", "optimizer.weight_decay": "0.0001", "optimizer.momentum": "0.0", "optimizer.alpha": "1.0",
    "optimizer.c": "0.0", "optimizer.scale": "gradient",
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), [
    ({}, []),
    ({"method": "adamw", "lr": "3e-05"}, []),  # not in Table 1, so nothing to differ from
    ({"model.options.pretrained_cfg_overlay.file": "vit.safetensors"}, []),
    ({"lr": "0.2"}, ["lr is 0.2, in Table 1 0.1"]),
    ({"optimizer.alpha": "1000.0"}, ["optimizer.alpha is 1000.0, in Table 1 1"]),
    ({"optimizer.momentum": "0.9"}, ["optimizer.momentum is 0.9, in Table 1 0"]),
    ({"optimizer.scale": "lr"}, ["optimizer.scale is lr, in Table 1 gradient"]),
    ({"trainer.precision": "bf16-mixed"}, ["trainer.precision is bf16-mixed, in Table 1 32-true"]),
    ({"trainer.limit_val_batches": "1"}, ["trainer.limit_val_batches is 1, in Table 1 not set"]),
    ({"lr_scheduler.step_size": "5"}, ["lr_scheduler.step_size is 5, in Table 1 not set"]),
    ({"data.augment": "timm"}, ["data.augment is timm, in the authors' code crop"]),
    ({"model.images.crop_pct": "0.9"}, ["model.images.crop_pct is 0.9, in the authors' code 0.875"]),
    ({"method": "sgd_constant"}, ["optimizer.alpha is 1.0, in Table 1 0"]),
    ({"model.name": "resnet18"}, [f"model.name is resnet18, in Table 1 {VIT}"]),
])  # fmt: skip
def test_differences_tell_runs_of_table_1_from_others(change: dict[str, str], expected: list[str]) -> None:
    assert differences([SAME, SAME | change]) == expected


def test_adagrad_norm_of_their_code_stands_beside_that_of_the_paper_and_counts_too() -> None:
    b0s = [0.1, 1.0]
    spans = dict(zip(METHODS, (0.0, 0.2, 0.2, 0.3, 0.1), strict=True))

    def compared(spans: dict[str, float]) -> Comparison:
        cells = {(method, b0): Cell([0.8 - span * (b0 < 1)] * 3) for method, span in spans.items() for b0 in b0s}
        return Comparison(Results("e", "test/acc", list(spans), b0s, ["1", "2", "3"], cells, None),
                          PAPER[VIT], [VIT], ["m"], 1.0, [])  # fmt: skip

    assert compared(spans).methods == list(METHODS)
    assert claims(compared(spans))[0].verdict == "holds"
    assert claims(compared(spans | {"adagrad_norm_authors": 0.0}))[0].verdict == "does not hold"
    del spans["adagrad_norm_authors"]
    assert claims(compared(spans))[0].verdict == "holds"
