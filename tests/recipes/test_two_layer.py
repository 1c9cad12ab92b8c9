"""The two-layer recipe: network and data against slow references, measurements, claims."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from mlflow.tracking import MlflowClient

from adaloss_lightning import AdaLoss
from adaloss_lightning.theory.gram import g_empirical, h_empirical, h_infinity, spectral_norm
from recipes.two_layer import report
from recipes.two_layer.data import TwoLayerData, gaussian_inputs, nearly_orthogonal_inputs
from recipes.two_layer.descent import adaloss, descend, descend_stochastically, new_network, training_set
from recipes.two_layer.module import TwoLayerNetwork
from recipes.two_layer.monitor import GramMonitor, Start
from tests.limits import HANG_S
from tests.recipes.runs import fit, history, only_run

MONITOR = "--trainer.callbacks+=recipes.two_layer.monitor.GramMonitor"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: TwoLayerNetwork(0, 3), r"Invalid dim=0\. Must be >= 1"),
    (lambda: TwoLayerNetwork(3, -1), r"Invalid width=-1\. Must be >= 1"),
    (lambda: TwoLayerData(n=0), r"Invalid n=0\. Must be >= 1"),
    (lambda: TwoLayerData(batch_size=0), r"Invalid batch_size=0\. Must be >= 1"),
    (lambda: TwoLayerData(n=9, n_eval=3, dim=8, geometry="nearly_orthogonal"), r"Invalid dim=8 for nearly_orthogonal"),
    (lambda: nearly_orthogonal_inputs(3, 2, generator()), r"Invalid n=3 for dim=2\. Must be <= dim"),
    (lambda: GramMonitor(0), r"Invalid every_n_epochs=0\. Must be >= 1"),
])  # fmt: skip
def test_impossible_arguments_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Data


def test_inputs_have_norm_1_and_labels_are_those_of_a_fixed_teacher() -> None:
    data = TwoLayerData(n=40, n_eval=30, dim=10)
    data.setup("fit")
    x, y = data.train_set
    assert (x.shape, y.shape, x.dtype) == ((40, 10), (40,), torch.float64)
    np.testing.assert_allclose(x.norm(dim=1), 1)
    # One linear teacher of norm sqrt(d) explains all three sets.
    (xv, yv), (xt, yt) = next(iter(data.val_dataloader())), next(iter(data.test_dataloader()))
    inputs, labels = torch.cat([x, xv, xt]).numpy(), torch.cat([y, yv, yt]).numpy()
    teacher, residual, *_ = np.linalg.lstsq(inputs, labels, rcond=None)
    assert residual.item() < 1e-20
    assert np.linalg.norm(teacher) == pytest.approx(math.sqrt(10))
    assert len(np.unique(labels)) == 100
    torch.manual_seed(5)  # the seed of a run
    again, random = training_set(40, 10)  # with random labels
    assert torch.equal(again, x)
    assert np.linalg.lstsq(x.numpy(), random.numpy(), rcond=None)[1].item() > 1


def test_nearly_orthogonal_inputs_have_small_products() -> None:
    exact = nearly_orthogonal_inputs(6, 9, generator(), noise=0)
    np.testing.assert_allclose(exact @ exact.T, np.eye(6), atol=1e-14)
    np.testing.assert_allclose(h_infinity(exact), np.eye(6) / 2, atol=1e-14)
    near = nearly_orthogonal_inputs(60, 80, generator())
    np.testing.assert_allclose(near.norm(dim=1), 1)
    off = near @ near.T - torch.eye(60)
    assert 0.005 < off.abs().mean() < 0.03  # noise 0.1 times a Gaussian of deviation 1/sqrt(80), twice


def test_batches_are_everything_or_shuffled_parts() -> None:
    whole = TwoLayerData(n=7, n_eval=3, dim=4)
    whole.setup("fit")
    ((x, y),) = whole.train_dataloader()
    assert torch.equal(x, whole.train_set[0])
    assert torch.equal(y, whole.train_set[1])
    parts = TwoLayerData(n=7, n_eval=3, dim=4, batch_size=2)
    parts.setup("fit")
    batches = [labels for _, labels in parts.train_dataloader()]
    assert [len(labels) for labels in batches] == [2, 2, 2, 1]
    assert sorted(torch.cat(batches).tolist()) == sorted(y.tolist())


# Network and training


def test_network_is_the_sum_of_the_paper() -> None:
    network = new_network(3, 5, seed=1)
    x = gaussian_inputs(4, 3, generator(3))
    for i, u in enumerate(network(x).detach()):
        hidden = [max(float(w @ x[i]), 0.0) for w in network.w.detach()]
        expected = sum(float(a) * h for a, h in zip(network.a, hidden, strict=True)) / math.sqrt(5)
        assert float(u) == pytest.approx(expected, rel=1e-12)


def test_network_starts_as_in_equation_11() -> None:
    network = new_network(20, 2000, seed=0)
    assert set(network.a.tolist()) == {-1.0, 1.0}
    assert abs(network.a.mean()) < 4 / math.sqrt(2000)
    assert abs(network.w.mean()) < 4 / math.sqrt(40000)
    assert abs(network.w.std() - 1) < 4 / math.sqrt(2 * 40000)
    assert [name for name, _ in network.named_parameters()] == ["w"]
    assert network.state_dict().keys() == {"w", "a"}
    joint = new_network(20, 2000, seed=0, train_output=True)
    assert [name for name, _ in joint.named_parameters()] == ["w", "a"]
    assert torch.equal(joint.w, network.w)


def test_descent_is_the_recurrence_of_theorem_3() -> None:
    """Slow loops from the equations: b^2 <- b^2 + a^2 sqrt(n) norm(y - u)^2, w_r <- w_r - eta / b dL/dw_r."""
    n, d, m, eta, b0, theorem_alpha = 4, 3, 6, 2.0, 0.5, 0.3
    x, y = training_set(n, d)
    network = new_network(d, m, seed=2)
    w, a = network.w.detach().numpy().copy(), network.a.numpy()
    found = descend(network, (x, y), adaloss(eta, b0, alpha=2 * theorem_alpha**2 * math.sqrt(n)), steps=5)
    b2, losses, bs = b0**2, [], []
    for _ in range(5):
        u = [sum(a[r] * max(w[r] @ x[i].numpy(), 0) for r in range(m)) / math.sqrt(m) for i in range(n)]
        errors = [u[i] - float(y[i]) for i in range(n)]
        losses.append(sum(error**2 for error in errors) / 2)
        b2 += theorem_alpha**2 * math.sqrt(n) * sum(error**2 for error in errors)
        bs.append(math.sqrt(b2))
        slope = np.zeros_like(w)
        for r in range(m):
            for i in range(n):
                if w[r] @ x[i].numpy() >= 0:
                    slope[r] += errors[i] * a[r] * x[i].numpy() / math.sqrt(m)
        w -= eta / math.sqrt(b2) * slope
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)
    np.testing.assert_allclose(found.b, bs, rtol=1e-10)
    np.testing.assert_allclose(network.w.detach(), w, rtol=1e-10)


@pytest.mark.parametrize("train_output", [False, True])
def test_predictions_move_along_the_gram_matrix(train_output: bool) -> None:
    """du/dt = H (y - u), or (H + G)(y - u) when both layers train: one small step of gradient descent."""
    x, y = training_set(5, 4)
    network = new_network(4, 300, seed=0, train_output=train_output)
    gram = h_empirical(x, network.w, network.a) + (g_empirical(x, network.w) if train_output else 0)
    u = network(x).detach()
    rate = 1e-7
    descend(network, (x, y), adaloss(rate, 1.0, alpha=0.0), steps=1)
    # The error of the first-order expansion is of the order of the rate, and no pattern flips at a step this small.
    np.testing.assert_allclose((network(x).detach() - u) / rate, gram @ (y - u), rtol=1e-4)


@pytest.mark.parametrize("share", [0.48, 0.5, 0.52])
def test_errors_along_the_largest_eigenvector_grow_below_the_critical_value(share: float) -> None:
    """While no pattern changes, y - u(k) = (I - H / b)^k (y - u(0)): at b = norm(H) / 2 the sign flips at each step."""
    x, _ = training_set(10, 10)
    network = new_network(10, 500, seed=0)
    h = h_empirical(x, network.w)
    values, vectors = torch.linalg.eigh(h)
    error = 1e-6  # so small that no pattern changes
    y = network(x).detach() + error * vectors[:, -1]
    steps = 20
    losses = descend(network, (x, y), adaloss(1.0, share * float(values[-1]), alpha=0.0), steps).losses
    expected = [error**2 / 2 * (1 - 1 / share) ** (2 * k) for k in range(steps)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)  # u is of order 1: its rounding is 1e-10 of the error


def test_adaloss_converges_below_the_critical_value_where_a_constant_step_diverges() -> None:
    batch = training_set(10, 10)
    makers = [adaloss(30.0, 0.1, alpha) for alpha in (0.0, 1.0)]
    runs = [descend(new_network(10, 4096, seed=0), batch, make, steps=100, epsilon=1e-9) for make in makers]
    assert runs[0].losses[-1] > 1e6
    assert runs[1].losses[-1] < 1e-8


def test_distances_measure_what_moved() -> None:
    x = torch.eye(3, dtype=torch.float64)[:2]
    y = torch.zeros(2, dtype=torch.float64)
    network = new_network(3, 4, seed=0)
    with torch.no_grad():
        network.w.copy_(torch.ones(4, 3))
        network.a.fill_(1.0)
    start = Start.of(network, x, y)
    assert {key: value for key, value in start.distances(network).items() if key != "loss"} == {
        "weight_distance": 0.0, "activation_changes": 0.0, "gram_drift": 0.0,
        "gram_distance": pytest.approx(0.5),  # H = I, H-infinity = I / 2
    }  # fmt: skip
    with torch.no_grad():
        network.w[2] += torch.tensor([-3.0, 0.0, 4.0])  # <w_2, x_0> = -2: one of 8 patterns changes, H_00 loses 1/4
        network.w[1, 2] -= 1.0
    moved = start.distances(network)
    assert moved["weight_distance"] == pytest.approx(5)
    assert moved["activation_changes"] == pytest.approx(1 / 8)
    assert moved["gram_drift"] == pytest.approx(1 / 4)
    assert moved["loss"] == pytest.approx((1.5**2 + 2**2) / 2)  # u = (3, 4) / sqrt(4)


def test_stochastic_descent_draws_rows_and_looks_at_the_marks() -> None:
    batch = training_set(6, 5)
    rows = torch.randint(0, 6, (7, 2), generator=generator(9))
    network, twin = new_network(5, 16, seed=0), new_network(5, 16, seed=0)
    seen = descend_stochastically(network, batch, adaloss(1.0, 1.0), marks=(3, 7), batch_size=2, seed=9)
    optimizer, expected = AdaLoss(twin.parameters(), lr=1.0), []
    for step, row in enumerate(rows, start=1):
        optimizer.zero_grad()
        loss = (twin(batch[0][row]) - batch[1][row]).square().sum() / 2
        loss.backward()
        optimizer.step(loss=loss)
        if step in (3, 7):
            whole = (twin(batch[0]).detach() - batch[1]).square().sum() / 2
            expected.append((float(whole), float(optimizer.b[0])))
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


# Command line


def test_monitor_logs_the_theory_after_each_epoch(client: MlflowClient) -> None:
    fit(
        "two_layer",
        "adaloss",
        MONITOR,
        "--optimizer.b0=20",
        "--data.labels=random",
        "--data.geometry=nearly_orthogonal",
    )
    run = only_run(client)
    data = TwoLayerData(n=6, n_eval=5, dim=7, labels="random", geometry="nearly_orthogonal")
    data.setup("fit")
    x, y = data.train_set
    h = h_infinity(x)
    found = {
        name: np.array(history(client, run, f"theory/{name}"))
        for name in ("weight_distance", "activation_changes", "gram_drift", "gram_distance", "loss")
    }
    assert {len(values) for values in found.values()} == {4}
    # The loss after an epoch of one step is the loss that the next step starts from.
    np.testing.assert_allclose(found["loss"][:-1], history(client, run, "train/loss")[1:], rtol=1e-6)
    assert found["weight_distance"][0] > 0
    # norm(H(k) - H-infinity) lies within norm(H(k) - H(0)) of its start, the triangle of the two.
    assert all(np.abs(np.diff(found["gram_distance"])) <= found["gram_drift"][1:] + found["gram_drift"][:-1] + 1e-6)
    assert all(found["gram_distance"] <= spectral_norm(h) + 1.0)
    assert all((found["activation_changes"] * 6 * 32 + 1e-4) % 1 < 1e-3)  # whole patterns
    assert y.std() > 0


def test_monitor_of_a_resumed_run_measures_from_the_first_start(client: MlflowClient, folder: Path) -> None:
    fit("two_layer", "adaloss", MONITOR, "--trainer.logger.run_name=whole")
    whole = only_run(client)
    keep = ["--checkpoint.save_last=true", "--checkpoint.dirpath=kept"]
    fit("two_layer", "adaloss", MONITOR, "--trainer.max_epochs=2", "--trainer.logger.run_name=first", *keep)
    more = ["--ckpt_path=kept/last.ckpt", "--seed_everything=5"]  # goes on with that run
    fit("two_layer", "adaloss", MONITOR, *more)
    runs = {run.info.run_name: run for run in client.search_runs([whole.info.experiment_id])}
    for name in ("theory/weight_distance", "theory/loss", "adaloss/b"):
        assert runs["first"].data.metrics[name] == runs["whole"].data.metrics[name]


@pytest.mark.parametrize("more", [
    ["--model.train_output=true", "--optimizer.b0=100"],
    ["--data.batch_size=2", "--model.dtype=float32"],
])  # fmt: skip
def test_fit_trains_both_layers_and_small_batches(client: MlflowClient, more: list[str]) -> None:
    fit("two_layer", "adaloss", MONITOR, *more)
    run = only_run(client)
    assert math.isfinite(run.data.metrics["test/loss"])
    assert len(history(client, run, "train/loss")) == (4 if "--model.train_output=true" in more else 12)


def test_monitor_refuses_other_modules() -> None:
    with pytest.raises(TypeError, match="GramMonitor measures TwoLayerModule on TwoLayerData"):
        GramMonitor().on_fit_start(SimpleNamespace(datamodule=None), BoringModel())


# Report


def test_report_shows_what_it_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main(["--quick", "--out", "made"])
    text = Path("made", "two_layer.md").read_text()
    assert capsys.readouterr().out.startswith(f"{text}\nwrote made/two_layer.md\n")
    pictures = sorted(path.name for path in Path("made").glob("*.png"))
    assert pictures == [f"two_layer_{name}.png" for name in ("convergence", "norms", "stochastic", "widths")]
    assert all(f"({name})" in text for name in pictures)
    assert text.count("| not tested | the sizes are toys |") == 15
    assert f"torch {torch.__version__}" in text
    report.main(["--numbers", "made/numbers.json", "--out", "again"])
    assert all(Path("again", path.name).read_bytes() == path.read_bytes() for path in Path("made").iterdir())


def test_a_failure_ends_the_report_with_what_is_being_run(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()
    shutdown = ThreadPoolExecutor.shutdown
    run: list[int] = []

    def note(pool: ThreadPoolExecutor, *args: object, **kwargs: object) -> None:
        given_up.set()
        shutdown(pool, *args, **kwargs)

    def fail(setting: object, seed: int) -> None:
        raise ArithmeticError("the first one")

    def follow(setting: object, seed: int) -> None:
        run.append(seed)
        assert given_up.wait(HANG_S)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", note)
    for name in ("convergence", "widths", "norms"):
        monkeypatch.setattr(report.experiments, name, follow)
    monkeypatch.setattr(report.experiments, "stochastic", fail)
    with pytest.raises(ArithmeticError, match="the first one"):
        report.study(SimpleNamespace(seeds=1), 1)
    assert len(run) <= 1  # of three
