"""The linear_regression recipe: problems, recurrences against the real optimizers, measurements, claims."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from adaloss_lightning import AdaGradNorm, AdaLoss, SGDDecaySqrt
from adaloss_lightning.tracking.errors import StoreError
from recipes.linear_regression import report, studies
from recipes.linear_regression.batched import ADAPTIVE, METHODS, Method, Problems, trajectory
from recipes.linear_regression.claims import curvature, near_decades
from recipes.linear_regression.data import RegressionData, draw_problem
from recipes.linear_regression.module import RegressionModule
from tests.recipes.runs import fit, history, only_run

F64 = torch.float64


# --- data and module


def test_problem_is_realizable_and_a_matter_of_its_seed() -> None:
    torch.manual_seed(3)
    data = RegressionData(n=9, d=4)
    torch.randn(7)  # what else is drawn must not matter
    x, w_star, _ = draw_problem(3, 9, 4)
    assert torch.equal(data.x, x)
    torch.testing.assert_close(data.y, (x * w_star).sum(1), rtol=0, atol=1e-13)  # another order of summation
    torch.testing.assert_close(torch.linalg.lstsq(data.x_test, data.y_test[:, None]).solution[:, 0], w_star)
    assert not torch.equal(RegressionData(n=9, d=4, seed=4).x, x)
    problems = Problems.draw([3, 4], 9, 4)
    assert torch.equal(problems.x[0], x)
    assert torch.equal(problems.start[0], -w_star)


def test_epoch_has_steps_per_epoch_batches_of_all_rows_or_of_one() -> None:
    full = RegressionData(n=6, d=2, seed=1, steps_per_epoch=4)
    batches = list(full.train_dataloader())
    assert len(batches) == 4
    assert all(torch.equal(x, full.x) and torch.equal(y, full.y) for x, y in batches)
    single = RegressionData(n=6, d=2, seed=1, steps_per_epoch=600, stochastic=True)
    counts = torch.zeros(6)
    for x, y in single.train_dataloader():
        assert (x.shape, y.shape) == ((1, 2), (1,))
        counts[(full.x == x).all(1) & (full.y == y)] += 1
    assert counts.sum() == 600
    assert counts.min() > 50  # 100 expected of each, standard deviation 9


@pytest.mark.parametrize("make", [
    lambda: RegressionData(n=3, d=4), lambda: RegressionData(d=0), lambda: RegressionData(steps_per_epoch=0),
    lambda: RegressionModule(d=0),
])  # fmt: skip
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=\d+\. Must be >= "):
        make()


# --- the batched recurrences


def optimizer_of(method: Method, w: torch.nn.Parameter, b0: float) -> torch.optim.Optimizer:
    if method == "adagrad_norm":
        return AdaGradNorm([w], lr=1.0, b0=b0)
    if method == "sgd_decay_sqrt":
        return SGDDecaySqrt([w], lr=1.0, b0=b0, form="linear", c_s=10.0)
    return AdaLoss([w], lr=1.0, b0=b0, alpha=2.0 if method == "adaloss" else 0.0)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_trajectory_is_what_the_optimizers_do(method: Method, stochastic: bool) -> None:
    n, d, steps, seeds = 12, 6, 50, (1, 2)
    problems = Problems.draw(seeds, n, d, steps if stochastic else None)
    # SGD-Constant from below its critical value leaves float64 within 50 steps
    b0s = [40.0, 400.0] if method == "sgd_constant" else [0.01, 1.0, 40.0]
    batched = list(trajectory(problems, method, torch.tensor(b0s, dtype=F64), steps, c_s=10.0))
    for s, seed in enumerate(seeds):
        x, w_star, _ = draw_problem(seed, n, d)
        y = x @ w_star
        for j, b0 in enumerate(b0s):
            w = torch.nn.Parameter(torch.zeros(d, dtype=F64))
            optimizer = optimizer_of(method, w, b0)
            for step in batched:
                part = slice(None) if problems.rows is None else problems.rows[s, step.t - 1 : step.t]
                optimizer.zero_grad()
                loss = (x[part] @ w - y[part]).square().sum() / 2
                loss.backward()
                optimizer.step(loss=loss)
                scale = max(1.0, step.after[s, :, j].abs().max().item())  # where it grows, so does what rounding leaves
                torch.testing.assert_close(w.data, w_star + step.after[s, :, j], rtol=0, atol=1e-10 * scale)
                torch.testing.assert_close(optimizer.b[0], step.b[s, j], rtol=1e-10, atol=0)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_trajectory_in_the_eigenbasis_has_the_same_norms(method: Method, stochastic: bool) -> None:
    problems, b0 = Problems.draw([1, 2], 9, 4, 30 if stochastic else None), torch.tensor([3.0, 30.0], dtype=F64)
    rotated = problems.in_eigenbasis()
    for plain, turned in zip(trajectory(problems, method, b0, 30), trajectory(rotated, method, b0, 30), strict=True):
        torch.testing.assert_close(turned.b, plain.b, rtol=1e-9, atol=0)
        torch.testing.assert_close(turned.after.norm(dim=1), plain.after.norm(dim=1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rotated.loss(turned.after), problems.loss(plain.after), rtol=1e-9, atol=1e-12)


def test_trajectory_takes_a_b0_of_its_own_for_each_seed() -> None:
    problems = Problems.draw([5, 6], 9, 4)
    b0 = torch.tensor([[20.0, 2.0], [21.0, 3.0]], dtype=F64)
    *_, last = trajectory(problems, "adaloss", b0, 30)
    for s, seed in enumerate((5, 6)):
        *_, alone = trajectory(Problems.draw([seed], 9, 4), "adaloss", b0[s], 30)
        torch.testing.assert_close(last.after[s], alone.after[0])


def test_problem_rows_are_uniform_and_not_the_stream_that_drew_x() -> None:
    rows = Problems.draw([1, 2], 10, 3, 5000).rows
    assert rows is not None
    assert not torch.equal(rows[0], rows[1])
    assert torch.bincount(rows[0], minlength=10).min() > 400  # 500 expected, standard deviation 21
    assert not torch.equal(rows[0], torch.randint(10, (5000,), generator=torch.Generator().manual_seed(1)))


# --- the measurements


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "WINDOWS", ((3, 5), (6, 6), (15, 20)))
    for module in (studies, report):
        monkeypatch.setattr(module, "STEPS", 20)
    monkeypatch.setattr(report, "CROSSING_STEPS", 20)
    monkeypatch.setattr(report, "ACCURACY_STEPS", 20)


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("method", METHODS)
def test_window_means_are_means_of_the_whole_loss(method: Method) -> None:
    problems, b0 = Problems.draw([1, 2], 8, 3, 20), torch.tensor([9.0, 30.0], dtype=F64)
    found = studies.window_means(problems, method, b0, lambda: None)
    steps = list(trajectory(problems, method, b0, 20, c_s=studies.C_S))
    losses = torch.stack([0.5 * torch.linalg.vector_norm(problems.x @ step.before, dim=1) ** 2 for step in steps])
    rates = torch.stack([1 / step.b for step in steps])
    for k, (first, last) in enumerate(studies.WINDOWS):
        torch.testing.assert_close(found.loss[k], losses[first - 1 : last].mean(0), rtol=1e-9, atol=0)
        torch.testing.assert_close(found.rate[k], rates[first - 1 : last].mean(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.last_b, steps[-1].b)


def test_crossings_and_accuracies_are_first_steps() -> None:
    problems = Problems.draw([1, 2], 8, 3)
    multiples = torch.tensor([1e-3, 0.5, 3.0], dtype=F64)
    targets = torch.tensor([1.0, 1e-3], dtype=F64)
    timed = studies.accuracies(problems, multiples, targets, 60, lambda: None)
    crossed = studies.crossings(problems, multiples[:2], (1.0, 0.1), 60, lambda: None)
    critical = np.array([np.linalg.svd(x)[1][0] ** 2 / 2 for x in problems.x])
    np.testing.assert_allclose(timed.critical, critical, rtol=1e-12)
    b0 = torch.from_numpy(critical)[:, None] * multiples

    def first(happened: Iterable[Any]) -> float:
        return next((t for t, yes in enumerate(happened, 1) if yes), math.inf)

    for method in ADAPTIVE:
        steps, nearer = (list(trajectory(problems.from_distance(far), method, b0, 60)) for far in (1.0, 0.1))
        for s, j in itertools.product(range(2), range(3)):
            for k, target in enumerate(targets):
                reached = first(step.after[s, :, j].square().sum() <= target for step in steps)
                assert timed.steps[method][k, s, j] == reached
            above, later = (first(step.b[s, j] > critical[s] for step in run) for run in (steps, nearer))
            assert timed.crossed[method][s, j] == above
            if multiples[j] < 1:
                assert crossed.steps[method][:, s, j].tolist() == [above, later]
        assert (crossed.steps[method] <= crossed.logarithmic[method]).all()


@pytest.mark.usefixtures("short_windows")
def test_proposition_1_starts_at_the_longest_row() -> None:
    problems = Problems.draw([1], 8, 3, studies.STEPS)
    x, w_star, _ = draw_problem(1, 8, 3)
    found = studies.proposition_1(problems, torch.tensor([1.0, 1e6], dtype=F64), lambda: None)
    longest = max(sum(v * v for v in row) for row in x.tolist())
    # from a million times the longest row b hardly moves
    np.testing.assert_allclose(found.windows["adaloss"].last_b[0, 1], 1e6 * longest / 2, rtol=1e-6)
    allowance = (np.linalg.eigvalsh((x.T @ x).numpy())[-1] - 1) * float(w_star @ w_star)
    np.testing.assert_allclose(found.allowance[0], allowance, rtol=1e-12)


@pytest.mark.usefixtures("short_windows")
def test_compare_gives_ratios_of_geometric_means() -> None:
    problems = Problems.draw([1, 2], 8, 3, studies.STEPS)
    b0 = torch.tensor([0.1, 0.5], dtype=F64)
    found = studies.compare(problems, b0, 10.0, lambda: None)
    start = Problems(problems.x, 10 * problems.start, problems.rows)
    ours, theirs = (studies.window_means(start, method, b0, lambda: None).loss[0].numpy() for method in ADAPTIVE)
    np.testing.assert_allclose(found.loss_ratio[0], np.prod(ours / theirs) ** (1 / 4), rtol=1e-9)
    assert (found.n, found.d, found.distance) == (8, 3, 10.0)


# --- the claims


def test_curvature_tells_a_line_from_a_power() -> None:
    digits = torch.linspace(0, 20, 11, dtype=F64)
    assert curvature(5 + 3 * digits) == pytest.approx(1)
    assert curvature(digits**1.2) == pytest.approx(2**1.2 - 1)  # 1.30
    later = torch.linspace(20, 60, 21, dtype=F64)
    assert curvature(later**1.2) == pytest.approx((60**1.2 - 40**1.2) / (40**1.2 - 20**1.2))  # 1.11
    assert curvature(torch.cat([digits[:-1], torch.tensor([math.inf])])).isnan()  # too few steps decide nothing


def test_near_decades_measures_the_longest_stretch() -> None:
    b0 = torch.logspace(0, 6, 7, dtype=F64)
    loss = torch.tensor([5.0, 100.0, 10.0, 1.0, 9.9, 10.1, math.inf], dtype=F64)
    assert near_decades(b0, loss, best=1.0) == pytest.approx(2.0)  # 1e2 to 1e4; 1e0 is near too, but alone
    assert near_decades(b0, loss, best=0.01) == 0  # flat, and nowhere near what another method reaches


@pytest.mark.usefixtures("short_windows")
def test_report_writes_claims_and_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main(["--out=here/there", "--seeds=2", "--points=4", "--shapes=6x3,8x8"])
    out = folder / "here" / "there"
    text = (out / "claims.md").read_text()
    assert capsys.readouterr().out.startswith(text)
    assert text.count("2 seeds, it takes 3") == 20
    assert "| 6 x 3 | 0.1 |" in text
    assert "| 8 x 8 | 10 |" in text
    assert "seeds 1 to 2" in text
    figures = {f"{name}.png" for name in ("figure_1_full_batch", "figure_1_stochastic", "lemma_1", "theorem_1")}
    assert {path.name for path in out.glob("*.png")} == figures
    assert all(f"({name})" in text for name in figures)
    report.main([f"--numbers={out / 'numbers.json'}", "--out=again"])
    assert all((folder / "again" / path.name).read_bytes() == path.read_bytes() for path in out.iterdir())


@pytest.mark.parametrize(
    "content", [None, b"{", b"\xff", b'{"runs":[]}', b'{"class":"os:PathLike"}', b'{"class":"recipes.no:No"}']
)
def test_report_refuses_a_file_that_no_report_has_written(folder: Path, content: bytes | None) -> None:
    file = folder / "some.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StoreError, match=r"Cannot read .*some.json: .*Must be a numbers.json"):
        report.main([f"--numbers={file}"])


@pytest.mark.parametrize("argument", ["--seeds=0", "--points=1", "--threads=0", "--shapes=100", "--shapes=5x10,6x"])
def test_report_refuses_impossible_arguments(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        report.main([argument])
    assert stopped.value.code == 2
    assert f"Invalid {argument}" in capsys.readouterr().err


# --- the command line


def test_run_takes_the_steps_of_the_trajectory(client: MlflowClient) -> None:
    fit("linear_regression", "adaloss", "--optimizer.b0=30", "--seed_everything=7")
    run = only_run(client)
    assert run.data.params["model.d"] == "5"  # the data's
    problem, (_, _, x_test) = Problems.draw([7], 8, 5), draw_problem(7, 8, 5, n_test=8)
    steps = list(trajectory(problem, "adaloss", torch.tensor([30.0], dtype=F64), 6))
    errors = torch.stack([step.before[0, :, 0] for step in steps] + [steps[-1].after[0, :, 0]])
    losses = (errors @ problem.x[0].T).square().sum(1) / 2
    np.testing.assert_allclose(history(client, run, "adaloss/b"), [step.b.item() for step in steps], rtol=1e-6)
    np.testing.assert_allclose(history(client, run, "train/loss"), losses[:6], rtol=1e-5)  # logged in float32
    np.testing.assert_allclose(history(client, run, "val/loss"), losses[[3, 6]], rtol=1e-5)
    np.testing.assert_allclose(run.data.metrics["test/loss"], (x_test @ errors[6]).square().sum() / 2, rtol=1e-5)


def test_stochastic_runs_take_one_row_a_step(client: MlflowClient) -> None:
    fit("linear_regression", "adaloss", "--optimizer.b0=30", "--data.stochastic=true")
    run = only_run(client)
    b, losses = history(client, run, "adaloss/b"), history(client, run, "train/loss")
    assert len(b) == 6
    np.testing.assert_allclose(b**2, 900 + 2 * np.cumsum(losses), rtol=1e-5)


def test_gaussian_start_is_a_matter_of_the_seed() -> None:
    torch.manual_seed(2)
    w = RegressionModule(d=3, start="gaussian").w
    torch.manual_seed(2)
    assert torch.equal(RegressionModule(d=3, start="gaussian").w.data, w.data)
    assert not RegressionModule(d=3).w.any()
    data = RegressionData(n=4, d=3)
    assert not torch.isclose(data.x, w.data).any()  # the problem of the same seed is drawn from another stream
    torch.manual_seed(3)
    assert not torch.isclose(RegressionModule(d=3, start="gaussian").w.data, w.data).any()
