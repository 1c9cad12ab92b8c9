"""The paper's claims about linear regression, each with its evidence seed by seed."""

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from recipes.linear_regression.batched import ADAPTIVE, Method
from recipes.linear_regression.studies import WINDOWS, Accuracies, Crossings, Proposition, Windows
from recipes.shared.claims import Always, Claim, Mean

NAMES: dict[Method, str] = {
    "adaloss": "AdaLoss",
    "adagrad_norm": "AdaGrad-Norm",
    "sgd_constant": "SGD-Constant",
    "sgd_decay_sqrt": "SGD-DecaySqrt",
}
NEAR_BEST = 10.0
WIDE_DECADES = 4.0
MUCH = 2.0
STRAIGHT = 1.05
SETTLED = 1e-20  # accuracy from which on only the slowest direction counts


def figure_1_claims(b0: Tensor, stochastic: dict[Method, Windows]) -> list[Claim]:
    """The statements of Section 3 about Figure 1, seed by seed."""
    last = {method: runs.loss[-1].nan_to_num(nan=torch.inf) for method, runs in stochastic.items()}  # [seed, b0]
    best = torch.stack(list(last.values())).amin((0, 2)).tolist()
    near_of = partial(near_decades, b0)
    flat: dict[Method, list[float]] = {m: list(map(near_of, runs, runs.amin(1).tolist())) for m, runs in last.items()}
    good = {method: list(map(near_of, losses, best)) for method, losses in last.items()}
    small = b0 < 1
    loss = stochastic["adaloss"].loss / stochastic["adagrad_norm"].loss  # [window, seed, b0]
    rate = stochastic["adaloss"].rate / stochastic["adagrad_norm"].rate
    source, wide = "Section 3, Figure 1", f"over more than {WIDE_DECADES:g} decades of b0"
    near = f"within {NEAR_BEST:g}x of the best of all methods, in steps {span(-1)}"
    widths = f"mean decades: {_means(good)}"
    claims = [
        Claim(
            source,
            f"Stochastic {NAMES[method]} is robust to a wide range of b0",
            f"loss within {NEAR_BEST:g}x of its own best, in steps {span(-1)}, {wide}",
            [Mean("decades", flat[method], low=WIDE_DECADES)],
            f"mean decades: {_means(flat)}",
            learned=_learned(last[method], stochastic),
        )
        for method in ADAPTIVE
    ]
    claims += [
        Claim(
            "ours",
            f"... and {NAMES[method]} is not far from the best of all methods there",
            f"loss {near}, {wide}",
            [Mean("decades", good[method], low=WIDE_DECADES)],
            widths,
        )
        for method in ADAPTIVE
    ]
    claims += [
        Claim(
            "ours",
            f"... over a wider range for AdaLoss than for {NAMES[other]}",
            f"decades of b0 with loss {near}: more than {NAMES[other]}, paired",
            [Mean("decades more", _less(good["adaloss"], good[other]), low=0.0)],
            "c_s: the best power of ten on two other problems" if other == "sgd_decay_sqrt" else widths,
        )
        for other in ("sgd_constant", "sgd_decay_sqrt")
    ]
    claims += [
        Claim(
            source,
            f"For b0 < 1 AdaLoss is not better than AdaGrad-Norm in steps {span(window)}",
            "smallest loss ratio over b0 < 1 above 1",
            [Mean("smallest ratio", _floats(loss[window][:, small].amin(1)), low=1.0, is_ratio=True)],
            f"AdaLoss / AdaGrad-Norm loss {_range(loss[window][:, small])}",
        )
        for window in (0, 1)
    ]
    least, ahead = rate[:2][:, :, small].amin((0, 2)), (loss[-1] < 1).double().mean(1)
    claims += [
        Claim(
            source,
            "... although its effective rate 1/b is much larger",
            f"smallest ratio of 1/b over b0 < 1 and both windows above {MUCH:g}",
            [Mean("smallest ratio", _floats(least), low=MUCH, is_ratio=True)],
            f"AdaLoss / AdaGrad-Norm 1/b {_range(rate[:2][:, :, small])}",
        ),
        Claim(
            source,
            "After 5,000 steps AdaLoss outperforms AdaGrad-Norm in general",
            f"smaller loss in steps {span(-1)} at more than half of all b0",
            [Mean("share of b0", _floats(ahead), low=0.5)],
            f"AdaLoss / AdaGrad-Norm loss {_range(loss[-1])}",
        ),
    ]
    return claims


def lemma_1_claims(found: Crossings, timed: Accuracies) -> list[Claim]:
    """Lemma 1, on full batches: what it prints, and the claims about it."""
    far_below = found.multiples <= 0.1
    steps = {method: found.steps[method][:, :, far_below] for method in ADAPTIVE}  # [distance, seed, b0]
    rises = {method: (several[:, :, 0] - several[:, :, -1]).amax(0) for method, several in steps.items()}
    more = found.steps["adaloss"] > found.steps["adagrad_norm"]
    fewer = found.steps["adaloss"] < found.steps["adagrad_norm"]
    crossed, reached = timed.crossed["adaloss"][:, 0], timed.steps["adaloss"][:, :, 0]
    saturated = {method: (found.printed[method][:, :, 0] / found.printed[method][:, :, far_below][:, :, -1]).amax(0)
                 for method in ADAPTIVE}  # fmt: skip
    return [
        _bound_claim("Lemma 1", "within the number of steps that the lemma prints", found, found.printed),
        Claim(
            "ours",
            "The bound that Lemma 1 prints saturates as b0 falls",
            f"bound at {found.multiples[0]:.0e} of critical less than 1.1 times that at 0.1",
            [Mean(f"{NAMES[method]}: ratio", _floats(saturated[method]), high=1.1) for method in ADAPTIVE],
            "; ".join(f"{NAMES[method]} {_range(ratios)}" for method, ratios in saturated.items()),
        ),
        _bound_claim("ours", "within a number of steps that is logarithmic in 1/b0", found, found.logarithmic),
        Claim(
            "ours",
            "That number itself, not only its bound, grows as b0 shrinks",
            "crossing step at the smallest b0 above the one at 0.1 of critical, from some start",
            [Mean(f"{NAMES[method]}: rise", _floats(rises[method]), low=0.0) for method in ADAPTIVE],
            "; ".join(f"{NAMES[method]}: {_range(several)} steps" for method, several in steps.items())
            + f" over b0 from {found.multiples[0]:.0e} to 0.1 of critical",
        ),
        Claim(
            "Lemma 1",
            "The number of steps does not depend on the target accuracy",
            "b crosses before the first of the targets is reached, with every seed",
            [Always("crosses first", (crossed < reached[0]).tolist())],
            f"AdaLoss from b0 = {timed.multiples[0]:.0e} of critical: crossing at step {_range(crossed)};"
            f" {timed.targets[0]:.0e} reached at {_range(reached[0])},"
            f" {timed.targets[-1]:.0e} at {_range(reached[-1])}",
        ),
        Claim(
            "after Lemma 1",
            "With lambda_1 > 1, AdaLoss is more likely to take more steps to the critical value than AdaGrad-Norm",
            "share of runs in which it takes more above the share in which it takes fewer",
            [Mean("difference", _floats((more.double() - fewer.double()).mean((0, 2))), low=0.0)],
            f"more in {_percent(more)}, fewer in {_percent(fewer)} of the runs",
        ),
    ]


def _bound_claim(source: str, words: str, found: Crossings, bounds: dict[Method, Tensor]) -> Claim:
    slack = {method: bounds[method] / found.steps[method] for method in ADAPTIVE}
    return Claim(
        source,
        f"Started below eta lambda_1 / 2, b crosses it {words}",
        "the first step after which b is above, N + 1 in the paper, at most the bound in every run of every seed",
        [
            Always(f"{NAMES[m]}: within the bound", (several >= 1).all(2).all(0).tolist())
            for m, several in slack.items()
        ],
        "bound / measured " + ", ".join(f"{NAMES[m]} {_range(several)}" for m, several in slack.items()),
    )


def theorem_1_claims(timed: Accuracies) -> list[Claim]:
    """Theorem 1 and Corollary 1, on full batches."""
    claims = []
    for source, method in (("Theorem 1", ADAPTIVE[1]), ("Corollary 1", ADAPTIVE[0])):
        bend = curvature(timed.steps[method][timed.targets <= SETTLED])
        claims.append(
            Claim(
                source,
                f"{NAMES[method]} converges linearly, O(log(1/eps)) steps, from any b0",
                f"between {SETTLED:.0e} and {timed.targets[-1]:.0e} the second half of the digits costs less than"
                f" {STRAIGHT:g} times the steps of the first, at every b0 (x^1.2: 1.11 times)",
                [Mean("largest ratio", _floats(bend.amax(1)), high=STRAIGHT, is_ratio=True)],
                f"{_range(bend)} for b0 from {timed.multiples[0]:.0e} to {timed.multiples[-1]:g} of critical",
            )
        )
    ours, theirs = (timed.steps[method][-1] for method in ADAPTIVE)
    above = timed.multiples >= 1
    ratio = theirs / ours
    claims.append(
        Claim(
            "after Lemma 1, Corollary 1",
            "With lambda_1 > 1 and 2 b0 > eta lambda_1, where its bound is the tighter one, AdaLoss takes fewer steps "
            "than AdaGrad-Norm",
            f"AdaGrad-Norm takes more steps to {timed.targets[-1]:.0e}, in the geometric mean over b0",
            [Mean("AdaGrad-Norm / AdaLoss", _floats(ratio[:, above].log().mean(1).exp()), low=1.0, is_ratio=True)],
            f"AdaGrad-Norm / AdaLoss steps {_range(ratio[:, above])}; for smaller b0, where it is possibly looser,"
            f" {_range(ratio[:, ~above])}",
        )
    )
    return claims


def proposition_1_claims(found: Proposition) -> list[Claim]:
    """Proposition 1, with one row a step."""
    ours, theirs = (found.windows[method] for method in ADAPTIVE)
    gap = theirs.last_b - ours.last_b
    share: Tensor = gap / found.allowance.unsqueeze(1)
    ahead = ours.loss[-1] < theirs.loss[-1]
    return [
        Claim(
            "Proposition 1",
            "For 2 b0 >= eta sup norm(x_i)^2 and lambda_1 > 1, AdaLoss improves the constant of AdaGrad-Norm, by up to"
            " (lambda_1 - 1) norm(w_0 - w*)^2",
            "last b of AdaLoss the smaller one in every run of every seed, by at most that much",
            [Always("smaller by at most that", ((share >= 0) & (share <= 1)).all(1).tolist())],
            f"smaller by {_range(gap)}, {_range(share)} of the allowance;"
            f" AdaLoss has the smaller loss in steps {span(-1)} in {_percent(ahead)} of the runs",
        )
    ]


def _learned(last: Tensor, stochastic: dict[Method, Windows]) -> list[bool]:
    """Whether the best run of each seed has come far below the worst of the first window, which has hardly moved.

    A method that diverged everywhere has not failed to learn: it is not robust.
    """
    first = torch.cat([runs.loss[0] for runs in stochastic.values()], dim=1)
    start = first.where(first.isfinite(), 0.0).amax(1)
    best = last.amin(1)
    return (best.isinf() | (best * NEAR_BEST < start)).tolist()


def near_decades(b0: Tensor, loss: Tensor, best: float) -> float:
    """Length, in decades of b0, of the longest stretch whose loss is at most 10 times the best.

    Args:
        b0: Ascending, `[b0]`.
        loss: `[b0]`; inf where the method diverges.
        best: Of this method, which asks whether it is flat, or of all, which asks for more than to learn little.
    """
    near = ((loss <= NEAR_BEST * best) & loss.isfinite()).tolist()
    stretches = [list(places) for is_near, places in groupby(range(len(near)), near.__getitem__) if is_near]
    return max((torch.log10(b0[places[-1]] / b0[places[0]]).item() for places in stretches), default=0.0)


def curvature(steps: Tensor) -> Tensor:
    """Steps of the second half of the digits over those of the first: 1 for a line.

    Args:
        steps: To evenly spaced log-accuracies, an odd number of them, `[target, ...]`; inf where not reached. Before
            the fast directions have died out they bend the line as a power would.

    Returns:
        Shape `[...]`; NaN where the last accuracy was not reached.
    """
    middle = len(steps) // 2
    ratio: Tensor = (steps[-1] - steps[middle]) / (steps[middle] - steps[0])
    return ratio.where(steps.isfinite().all(0), torch.nan)


def span(window: int) -> str:
    """The steps of a window of Figure 1, in words."""
    first, last = WINDOWS[window]
    return f"{first} to {last}"


def _range(values: Tensor) -> str:
    return f"{values.min().item():.3g} to {values.max().item():.3g}"


def _floats(values: Tensor) -> list[float]:
    return [float(value) for value in values]


def _less(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [our - their for our, their in zip(ours, theirs, strict=True)]


def _means(decades: dict[Method, list[float]]) -> str:
    return ", ".join(f"{NAMES[method]} {statistics.fmean(values):.1f}" for method, values in decades.items())


def _percent(values: Tensor) -> str:
    return f"{100 * values.double().mean().item():.0f} %"
