"""The one mechanism of verdicts, and noise fed to every verdict of every recipe."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from adaloss_lightning.tracking.reports.results import Cell, Results
from recipes.linear_regression import claims as regression
from recipes.linear_regression.batched import ADAPTIVE, METHODS
from recipes.linear_regression.studies import Accuracies, Crossings, Proposition, Windows
from recipes.lstm_news import report as lstm_news
from recipes.pendulum import report as pendulum
from recipes.shared.claims import Always, Claim, Mean, claims_table, share_interval, t_interval
from recipes.shared.spreads import seed_spreads
from recipes.two_layer import claims as two_layer
from recipes.two_layer.descent import Descent
from recipes.two_layer.experiments import Convergence, Norms, Stochastic, Widths
from recipes.vit_cifar100 import report as vit_cifar100
from recipes.vit_cifar100.table1 import B0S, PAPER, VIT, Comparison


def claim(*evidence: Mean | Always, learned: Sequence[bool] | None = None, is_toy: bool = False) -> Claim:
    return Claim("Theorem 1", "it is so", "n > 1", evidence, "n = 2", learned, is_toy)


def test_intervals_are_those_of_the_tables() -> None:
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # Student's t for 2 degrees of freedom, deviation 1
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-6)
    np.testing.assert_allclose(t_interval([1.0, 10.0, 100.0], is_ratio=True)[0], 10)
    assert share_interval(3, 3)[0] == pytest.approx(0.025 ** (1 / 3))


@pytest.mark.parametrize(("evidence", "verdict"), [
    (Mean("x", [1.0, 1.1, 0.9], low=0.0), "holds"),
    (Mean("x", [1.0, 1.1, 0.9], low=2.0), "does not hold"),
    (Mean("x", [1.0, -1.1, 0.9], low=0.0), "not tested"),
    (Mean("x", [0.0, 0.0, 0.0], low=0.0), "does not hold"),
    (Mean("x", [math.inf] * 3, low=0.0), "holds"),
    (Mean("x", [math.inf, 1.0, 1.0], low=0.0), "not tested"),  # counts of three decide nothing
    (Mean("x", [math.inf, *[1.0] * 6], low=0.0), "holds"),
    (Mean("x", [math.nan, 1.0, 1.0], low=0.0), "not tested"),
    (Mean("x", [1.0, 1.1], low=0.0), "not tested"),
    (Mean("x", [0.9, 1.1, 1.0], high=2.0, is_ratio=True), "holds"),
    (Mean("x", [0.0, 1.0, 1.0], high=2.0, is_ratio=True), "not tested"),  # ours over one that diverged
    (Mean("x", [0.0, *[1.0] * 6], high=2.0, is_ratio=True), "holds"),
    (Always("x", [True] * 3), "holds"),
    (Always("x", [True, True, False]), "does not hold"),
    (Always("x", [True] * 2), "not tested"),
])  # fmt: skip
def test_evidence_decides(evidence: Mean | Always, verdict: str) -> None:
    assert claim(evidence).verdict == verdict


def test_claim_says_why_nothing_is_decided() -> None:
    good, bad = Always("x", [True] * 3), Always("x", [False] * 3)
    assert claim().decide() == ("not tested", "runs that it needs are missing")
    assert claim(Always("x", [True])).decide() == ("not tested", "one seed, it takes 3")
    assert claim(bad, is_toy=True).decide() == ("not tested", "the sizes are toys")
    unlearned = claim(good, learned=[True, False, False]).decide()
    assert unlearned == ("not tested", "nothing was learned with 2 of 3 seeds")
    assert claim(good, bad).verdict == "does not hold"
    assert claim(good, Mean("x", [1.0, -1.0, 0.0], low=0.0)).verdict == "not tested"


def test_claims_table_gives_verdict_and_reason() -> None:
    rows = claims_table([claim(Always("so", [True] * 3)), claim(Always("so", [True, False, False]))]).splitlines()
    assert rows[2] == "| Theorem 1 | it is so | n > 1 | holds | so with 3 of 3 seeds; at most 63 % can fail | n = 2 |"
    assert "| **does not hold** | so with 1 of 3 seeds |" in rows[3]


def results(values: Callable[[], float], methods: Sequence[str], b0s: Sequence[float], seeds: int = 5) -> Results:
    cells = {(method, b0): Cell([values() for _ in range(seeds)]) for method in methods for b0 in b0s}
    return Results("e", "m", list(methods), list(b0s), [str(seed) for seed in range(seeds)], cells, None)


def points_of(made: Results) -> list[tuple[str, float, str]]:
    return [(*cell, seed) for cell in made.cells for seed in made.seeds]


def test_spreads_are_by_seed_and_infinite_with_a_divergence() -> None:
    cells = {
        ("adam", 1.0): Cell([1.0, 5.0], {"c": "failed"}),
        ("adam", 2.0): Cell([3.0], {"a": "diverged", "c": "no run"}),
    }
    found = seed_spreads(Results("e", "m", ["adam"], [1.0, 2.0], ["a", "b", "c"], cells, None), "adam")
    assert {seed: spread.width for seed, spread in found.items()} == {"a": math.inf, "b": 2.0}


def windows(rng: np.random.Generator, seeds: int, points: int) -> Windows:
    loss, rate = (torch.from_numpy(rng.lognormal(0, 3, (3, seeds, points))) for _ in range(2))
    return Windows(loss, rate, torch.from_numpy(rng.lognormal(0, 1, (seeds, points))))


def regression_noise(rng: np.random.Generator) -> list[Claim]:
    seeds, b0 = 5, torch.logspace(-4, 4, 25, dtype=torch.float64)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.lognormal(2, 1, shape))

    found = Crossings(
        torch.logspace(-9, -0.05, 31, dtype=torch.float64), (1.0, 0.1),
        *({method: drawn(2, seeds, 31) for method in ADAPTIVE} for _ in range(3)),
    )  # fmt: skip
    timed = Accuracies(
        torch.tensor([0.1, 2.0]),
        torch.logspace(0, -60, 31, dtype=torch.float64),
        drawn(seeds),
        {method: drawn(31, seeds, 2).cumsum(0) for method in ADAPTIVE},
        {method: drawn(seeds, 2) for method in ADAPTIVE},
    )  # fmt: skip
    timed.steps["adaloss"].mul_(3)  # or the claim that AdaLoss is the faster one would be half true
    timed.crossed["adaloss"].mul_(1000)  # or b could cross first with every one of a few seeds by chance
    runs = {method: windows(rng, seeds, 4) for method in ADAPTIVE}
    return [
        *regression.figure_1_claims(b0, {method: windows(rng, seeds, 25) for method in METHODS}),
        *regression.lemma_1_claims(found, timed),
        *regression.theorem_1_claims(timed),
        *regression.proposition_1_claims(Proposition(torch.ones(4), drawn(seeds), runs)),
    ]


def two_layer_noise(rng: np.random.Generator) -> list[Claim]:
    def run() -> Descent:
        return Descent([float(1e-4 * rng.lognormal(0, 3))], [1.0])

    def column(count: int) -> list[float]:
        return rng.lognormal(0, 1, count).tolist()

    def convergence() -> Convergence:
        three = ([run() for _ in range(4)] for _ in range(3))
        return Convergence(10.0, 20.0, [1.0, 2.0, 20.0, 30.0], *three, run(), [run(), run()], run(), run())

    def norms() -> Norms:
        return Norms((25, 50, 100, 200), column(4), column(4), rng.integers(1, 100, 4).tolist())

    def stochastic() -> list[Stochastic]:
        points = [(method, b0) for method in ("adaloss", "adagrad_norm") for b0 in (1.0, 10.0)]
        return [Stochastic(1, {point: [(float(rng.lognormal(0, 3)), 1.0)] for point in points})]

    seeds = range(5)
    return [
        *two_layer.about_convergence([convergence() for _ in seeds]),
        *two_layer.about_earlier_methods([convergence() for _ in seeds]),
        *two_layer.about_widths([Widths((16, 64, 256), *(column(3) for _ in range(5))) for _ in seeds]),
        *two_layer.about_norms([{"nearly orthogonal, d = n": norms(), "Gaussian, d fixed": norms()} for _ in seeds]),
        *two_layer.about_stochastic([stochastic() for _ in seeds]),
    ]


def lstm_noise(rng: np.random.Generator) -> list[Claim]:
    made = results(lambda: float(rng.uniform(0.7, 0.9)), ["adamloss", "adam", "adam_sqrt"], [0.1, 1.0, 400.0])
    return lstm_news.claims(made, {point: rng.lognormal(0, 2) for point in points_of(made)})


def pendulum_noise(rng: np.random.Generator) -> list[Claim]:
    methods = ["adamloss", "adam", "adamloss_own"]
    return pendulum.claims(results(lambda: float(rng.uniform(-900, -150)), methods, [0.1, 1.0, 10.0]))


def vit_noise(rng: np.random.Generator) -> list[Claim]:
    noise = results(lambda: float(rng.uniform(0.5, 0.9)), list(PAPER[VIT]), B0S)
    return vit_cifar100.claims(Comparison(noise, PAPER[VIT], [VIT], ["m"], 1.0, []))


NOISE = {
    "linear_regression": (regression_noise, 20), "two_layer": (two_layer_noise, 14), "lstm_news": (lstm_noise, 4),
    "pendulum": (pendulum_noise, 2), "vit_cifar100": (vit_noise, 2),
}  # fmt: skip


@pytest.mark.parametrize("recipe", NOISE)
def test_no_verdict_holds_for_noise(recipe: str) -> None:
    make, count = NOISE[recipe]
    for seed in range(3):
        made = make(np.random.default_rng(seed))
        assert len(made) == count
        assert [one.text for one in made if one.verdict == "holds"] == []


def test_a_recipe_that_learned_nothing_is_not_tested() -> None:
    flat = iter([-1200.0] * 15 + [-1100.0, -1200.0] * 8)  # Adam's spread is the larger one, of two that never learned
    (found,) = pendulum.claims(results(lambda: next(flat), ["adamloss", "adam"], [0.1, 1.0, 10.0]))
    assert found.decide() == ("not tested", "nothing was learned with 5 of 5 seeds")
    guesses = results(lambda: 0.5, ["adamloss", "adam", "adam_sqrt"], [0.1, 1.0])
    chance = lstm_news.claims(guesses, dict.fromkeys(points_of(guesses), 0.69))
    assert {one.verdict for one in chance} == {"not tested"}


def regression_truth() -> list[Claim]:
    seeds, b0 = 3, torch.logspace(-3, 2, 6, dtype=torch.float64)
    ones = torch.ones(3, seeds, 6, dtype=torch.float64)
    alone = torch.tensor([math.nan] * 4 + [1e9, 1.0], dtype=torch.float64)  # near the best at one b0, often diverged
    ratio = torch.tensor([2.0, 1.5, 0.5], dtype=torch.float64).reshape(3, 1, 1)  # AdaLoss over AdaGrad-Norm
    sweeps = {
        "adaloss": Windows(ratio * ones, 3 * ones, ones[0]),
        "adagrad_norm": Windows(ones, ones, ones[0]),
        "sgd_constant": Windows(ones * alone, ones, ones[0]),
        "sgd_decay_sqrt": Windows(ones * alone, ones, ones[0]),
    }
    late = torch.ones(2, seeds, 31, dtype=torch.float64)
    late[:, :, 0] = 4.0  # b crosses later from the smallest b0
    bounds = {method: torch.full_like(late, 100.0) for method in ADAPTIVE}
    found = Crossings(
        torch.logspace(-9, -0.05, 31, dtype=torch.float64), (1.0, 0.1), bounds, bounds,
        {"adaloss": late + 1, "adagrad_norm": late},
    )  # fmt: skip
    digits = torch.linspace(0, 60, 31, dtype=torch.float64).reshape(31, 1, 1).expand(31, seeds, 2)
    timed = Accuracies(
        torch.tensor([0.1, 2.0]), torch.logspace(0, -60, 31, dtype=torch.float64), torch.ones(seeds),
        {"adaloss": 5 + 10 * digits, "adagrad_norm": 5 + 20 * digits},
        {method: torch.ones(seeds, 2) for method in ADAPTIVE},
    )  # fmt: skip
    ends = {"adaloss": 1.0, "adagrad_norm": 1.5}
    runs = {method: Windows(ones, ones, torch.full((seeds, 4), b)) for method, b in ends.items()}
    return [
        *regression.figure_1_claims(b0, sweeps),
        *regression.lemma_1_claims(found, timed),
        *regression.theorem_1_claims(timed),
        *regression.proposition_1_claims(Proposition(torch.ones(4), torch.ones(seeds), runs)),
    ]


def two_layer_truth() -> list[Claim]:
    good, bad = (Descent([1.0, last], [1.0, 1.0]) for last in (1e-5, 1e5))
    assert (good.steps_to(1e-4), bad.steps_to(1e-4)) == (1, None)
    convergence = Convergence(
        10.0, 20.0, [1.0, 100.0], [bad, good], [good, good], [good, good], good, [good], good, bad
    )
    law = [3.0 * m**-0.5 for m in (16, 64, 256)]
    widths = Widths((16, 64, 256), law, law, law, law, [1.0, 0.9, 1.0])
    assert widths.slope("drift") == pytest.approx(-0.5)
    flat = Norms((10, 100), [1.0, 1.0], [0.5, 0.5], [5, 9])
    growing = Norms((10, 100), [1.0, 9.0], [0.5, 0.5], [5, None])
    steps = Stochastic(
        1, {("adaloss", 1.0): [(190.0, 1.0), (1.9, 1.0)], ("adagrad_norm", 1.0): [(100.0, 1.0), (1.0, 1.0)]}
    )
    return [
        *two_layer.about_convergence([convergence] * 3),
        *two_layer.about_earlier_methods([convergence] * 3),
        *two_layer.about_widths([widths] * 3),
        *two_layer.about_norms([{"nearly orthogonal, d = n": flat, "Gaussian, d fixed": growing}] * 3),
        *two_layer.about_stochastic([[steps]] * 3),
    ]


def by_b0(values: dict[str, list[float]], b0s: list[float], jitter: float) -> Results:
    """Three seeds, `jitter` apart."""
    cells = {
        (method, b0): Cell([value + jitter * seed for seed in range(3)])
        for method, row in values.items()
        for b0, value in zip(b0s, row, strict=True)
    }
    return Results("e", "m", list(values), b0s, ["0", "1", "2"], cells, None)


def lstm_by_b0(accuracy: dict[str, list[float]], losses: dict[str, list[float]]) -> list[Claim]:
    b0s = [0.1, 400.0]
    ends = {
        (m, b0, seed): loss for m, row in losses.items() for b0, loss in zip(b0s, row, strict=True) for seed in "012"
    }
    return lstm_news.claims(by_b0(accuracy, b0s, 0.01), ends)


def vit_truth() -> list[Claim]:
    cells = {
        (method, b0): Cell([], dict.fromkeys("012", "diverged"))
        if point == "diverged"
        else Cell([(point.mean + 0.01 * seed) / 100 for seed in range(3)])
        for method, row in PAPER[VIT].items()
        for b0, point in row.items()
    }  # the paper's own numbers
    found = Results("e", "m", list(PAPER[VIT]), list(B0S), ["0", "1", "2"], cells, None)
    return vit_cifar100.claims(Comparison(found, PAPER[VIT], [VIT], ["m"], 1.0, []))


TRUTH: dict[str, Callable[[], list[Claim]]] = {
    "linear_regression": regression_truth,
    "two_layer": two_layer_truth,
    "lstm_news": lambda: lstm_by_b0(
        {"adamloss": [0.8, 0.82], "adam": [0.6, 0.8], "adam_sqrt": [0.7, 0.81]},
        {"adamloss": [0.5, 0.4], "adam": [9.0, 0.5]},
    ),
    "pendulum": lambda: pendulum.claims(
        by_b0({"adamloss": [-150, -160], "adam": [-150, -900], "adamloss_own": [-140, -150]}, [1.0, 9.0], 5.0)
    ),
    "vit_cifar100": vit_truth,
}


@pytest.mark.parametrize("recipe", TRUTH)
def test_every_verdict_holds_where_its_claim_is_true(recipe: str) -> None:
    found = TRUTH[recipe]()
    assert len(found) == NOISE[recipe][1]
    assert [(one.text, one.decide()) for one in found if one.verdict != "holds"] == []


def test_a_method_that_is_flat_far_from_the_best_is_called_that() -> None:
    ones = torch.ones(3, 3, 6, dtype=torch.float64)
    levels = {"adaloss": 1.0, "adagrad_norm": 1e5, "sgd_constant": 1e9, "sgd_decay_sqrt": 1e9}
    sweeps = {method: Windows(level * ones, ones, ones[0]) for method, level in levels.items()}
    verdicts = {
        one.text: one.verdict
        for one in regression.figure_1_claims(torch.logspace(-4, 1, 6, dtype=torch.float64), sweeps)
    }
    for name, verdict in {"AdaLoss": "holds", "AdaGrad-Norm": "does not hold"}.items():
        assert verdicts[f"Stochastic {name} is robust to a wide range of b0"] == "holds"
        assert verdicts[f"... and {name} is not far from the best of all methods there"] == verdict


def test_runs_that_never_moved_are_not_robust() -> None:
    ones = torch.ones(3, 3, 6, dtype=torch.float64)
    sweeps = {method: Windows(ones, ones, ones[0]) for method in METHODS}
    found = regression.figure_1_claims(torch.logspace(-4, 1, 6, dtype=torch.float64), sweeps)[:2]
    assert [one.decide() for one in found] == [("not tested", "nothing was learned with 3 of 3 seeds")] * 2
    still = Stochastic(1, {("adaloss", 1.0): [(1.9, 1.0)] * 2, ("adagrad_norm", 1.0): [(1.8, 1.0)] * 2})
    found = two_layer.about_stochastic([[still]] * 3)
    assert [one.decide() for one in found] == [("not tested", "nothing was learned with 3 of 3 seeds")]


def test_a_method_that_diverges_everywhere_is_not_robust() -> None:
    ones = torch.ones(3, 3, 6, dtype=torch.float64)
    sweeps = {method: Windows(math.nan * ones if method == "adaloss" else ones, ones, ones[0]) for method in METHODS}
    first = regression.figure_1_claims(torch.logspace(-4, 1, 6, dtype=torch.float64), sweeps)[0]
    assert first.verdict == "does not hold"


def test_a_pendulum_that_diverged_is_no_better_than_one_that_learned_nothing() -> None:
    good = Cell([-150.0, -155.0, -160.0])
    cells = {
        ("adamloss", 1.0): Cell([], dict.fromkeys("012", "diverged")), ("adamloss", 9.0): good,
        ("adam", 1.0): Cell([-1440.0, -1450.0, -1460.0]), ("adam", 9.0): good,
    }  # fmt: skip
    found = Results("e", "m", ["adamloss", "adam"], [1.0, 9.0], ["0", "1", "2"], cells, None)
    assert pendulum.claims(found)[0].verdict == "does not hold"  # Adam over AdamLoss: 0.98, 0.99, 1


def test_verdicts_fall_with_what_they_are_about() -> None:
    good, bad = (Descent([1.0, last], [1.0, 1.0]) for last in (1e-5, 1e5))
    wrong = Convergence(10.0, 20.0, [1.0, 100.0], [good, bad], [good, bad], [bad, good], good, [bad], bad, bad)
    found = [*two_layer.about_convergence([wrong] * 3), *two_layer.about_earlier_methods([wrong] * 3)]
    assert {one.verdict for one in found} == {"does not hold"}
    worse = Stochastic(
        1, {("adaloss", 1.0): [(210.0, 1.0), (2.1, 1.0)], ("adagrad_norm", 1.0): [(100.0, 1.0), (1.0, 1.0)]}
    )
    assert two_layer.about_stochastic([[worse]] * 3)[0].verdict == "does not hold"
    values = {"adamloss": [0.5, 0.8], "adam": [0.81, 0.8], "adam_sqrt": [0.81, 0.9]}
    fallen = lstm_by_b0(values, {"adamloss": [9.0, 0.5], "adam": [0.5, 0.5]})
    assert [one.verdict for one in fallen] == ["does not hold"] * 4
    returns = {"adamloss": [-150.0, -900.0], "adam": [-150.0, -160.0]}
    assert pendulum.claims(by_b0(returns, [1.0, 9.0], 0.0))[0].verdict == "does not hold"
