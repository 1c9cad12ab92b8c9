"""The paper's claims about linear regression, each with a criterion."""

from itertools import groupby

import torch
from torch import Tensor

from recipes.linear_regression.batched import ADAPTIVE, Method
from recipes.linear_regression.studies import WINDOWS, Accuracies, Crossings, Proposition, Windows
from recipes.shared.claims import Claim

NAMES: dict[Method, str] = {
    "adaloss": "AdaLoss",
    "adagrad_norm": "AdaGrad-Norm",
    "sgd_constant": "SGD-Constant",
    "sgd_decay_sqrt": "SGD-DecaySqrt",
}
NEAR_BEST = 10.0
WIDE_DECADES = 4.0
STRAIGHT = 0.99


def figure_1_claims(b0: Tensor, stochastic: dict[Method, Windows]) -> list[Claim]:
    """The three statements of Section 3 about Figure 1."""
    decades = {method: near_best_decades(b0, runs.typical_loss[-1]) for method, runs in stochastic.items()}
    ours = [decades[method] for method in ADAPTIVE]
    small = b0 < 1
    loss = stochastic["adaloss"].typical_loss / stochastic["adagrad_norm"].typical_loss
    rate = (stochastic["adaloss"].rate / stochastic["adagrad_norm"].rate).mean(1)
    source = "Section 3, Figure 1"
    return [
        Claim(
            source,
            "Stochastic AdaLoss and AdaGrad-Norm are robust to a wide range of b0",
            f"loss of steps {span(-1)} within {NEAR_BEST:g}x of the method's best over {WIDE_DECADES:g} decades of b0"
            " or more, and over more than for SGD-Constant",
            min(ours) >= WIDE_DECADES and min(ours) > decades["sgd_constant"],
            "decades: " + ", ".join(f"{NAMES[method]} {value:.1f}" for method, value in decades.items()),
        ),
        *(
            Claim(
                source,
                f"For b0 < 1 AdaLoss is not better than AdaGrad-Norm in steps {span(window)}",
                "loss of AdaLoss at least that of AdaGrad-Norm at every b0 < 1",
                bool((loss[window, small] >= 1).all()),
                f"AdaLoss / AdaGrad-Norm loss {_range(loss[window, small])}",
            )
            for window in (0, 1)
        ),
        Claim(
            source,
            "... although its effective rate 1/b is larger",
            "1/b larger at every b0 < 1 in both windows",
            bool((rate[:2, small] > 1).all()),
            f"AdaLoss / AdaGrad-Norm 1/b {_range(rate[:2, small])}",
        ),
        Claim(
            source,
            "After 5,000 steps AdaLoss outperforms AdaGrad-Norm in general",
            f"smaller loss in steps {span(-1)} at more than half of all b0",
            bool((loss[-1] < 1).double().mean() > 0.5),
            f"at {int((loss[-1] < 1).sum())} of {len(b0)} b0; AdaLoss / AdaGrad-Norm loss {_range(loss[-1])}",
        ),
    ]


def lemma_1_claims(found: Crossings, timed: Accuracies) -> list[Claim]:
    """Lemma 1, on full batches."""
    slack = {method: (found.bound[method] / found.steps[method]).min().item() for method in ADAPTIVE}
    far_below = found.multiples <= 0.1
    means = {method: found.steps[method].mean(1)[:, far_below] for method in ADAPTIVE}  # [distance, b0]
    rises = {method: (mean[:, 0] - mean[:, -1]).max().item() for method, mean in means.items()}
    more = found.steps["adaloss"] > found.steps["adagrad_norm"]
    fewer = found.steps["adaloss"] < found.steps["adagrad_norm"]
    reached = timed.steps["adaloss"][:, :, 0].mean(1)
    crossing = timed.crossed["adaloss"][:, 0].mean().item()
    earlier = 4 * timed.critical.square().mean().item() / timed.targets[-1].item()
    return [
        Claim(
            "Lemma 1",
            "Started below eta lambda_1 / 2, b crosses it after at most a number of steps that is logarithmic in 1/b0",
            "crossing step at most the logarithmic bound in every run",
            min(slack.values()) >= 1,
            "bound / measured at least " + ", ".join(f"{NAMES[m]} {value:.3g}" for m, value in slack.items()),
        ),
        Claim(
            "Lemma 1",
            "That number itself, not only its bound, grows as b0 shrinks",
            "mean crossing step at the smallest b0 above the one at 0.1 of critical, from some start",
            max(rises.values()) > 0,
            "; ".join(f"{NAMES[m]}: {_range(mean)} steps, rise at most {rises[m]:+.1f}" for m, mean in means.items())
            + f" over b0 from 0.1 to {found.multiples[0]:.0e} of critical",
        ),
        Claim(
            "Lemma 1",
            "The number of steps does not depend on the target accuracy",
            "b crosses before the first of the targets is reached",
            bool(crossing < reached[0]),
            f"AdaLoss from b0 = {timed.multiples[0]:.0e} of critical: crossing at step {crossing:.1f};"
            f" {timed.targets[0]:.0e} reached at {reached[0]:.0f}, {timed.targets[-1]:.0e} at {reached[-1]:.0f}"
            f" (the earlier bound ((eta lambda_1)^2 - 4 b0^2) / eps for the last: {earlier:.0e})",
        ),
        Claim(
            "after Lemma 1",
            "With lambda_1 > 1, AdaLoss is more likely to take more steps to the critical value than AdaGrad-Norm",
            "more runs in which it takes more than runs in which it takes fewer",
            bool(more.sum() > fewer.sum()),
            f"more in {_percent(more)}, fewer in {_percent(fewer)} of the runs",
        ),
    ]


def theorem_1_claims(timed: Accuracies) -> list[Claim]:
    """Theorem 1 and Corollary 1, on full batches."""
    digits = -torch.log10(timed.targets)
    claims = []
    for source, method in (("Theorem 1", ADAPTIVE[1]), ("Corollary 1", ADAPTIVE[0])):
        lines = [
            straightness(digits, timed.steps[method][:, :, place].mean(1)) for place in range(len(timed.multiples))
        ]
        claims.append(
            Claim(
                source,
                f"{NAMES[method]} converges linearly, O(log(1/eps)) steps, from any b0",
                f"steps against log(1/eps) is a line with R^2 >= {STRAIGHT} at every b0",
                all(value >= STRAIGHT for value in lines),
                f"R^2 >= {min(lines):.4f} for b0 from {timed.multiples[0]:.0e} to {timed.multiples[-1]:g} of critical",
            )
        )
    ours, theirs = (timed.steps[method][-1] for method in ADAPTIVE)
    above = timed.multiples >= 1
    sooner, ratio = ours < theirs, (theirs / ours).mean(0)
    claims.append(
        Claim(
            "after Corollary 1",
            "With lambda_1 > 1 and 2 b0 > eta lambda_1, AdaLoss has the tighter bound than AdaGrad-Norm",
            f"it reaches {timed.targets[-1]:.0e} in fewer steps in more than half of the runs",
            bool(sooner[:, above].double().mean() > 0.5),
            f"fewer in {_percent(sooner[:, above])}, AdaGrad-Norm / AdaLoss steps {_range(ratio[above])}; for smaller"
            f" b0, where the paper leaves it open, fewer in {_percent(sooner[:, ~above])}, {_range(ratio[~above])}",
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
            "last b of AdaLoss the smaller one in every run, by at most that much",
            bool(((share >= 0) & (share <= 1)).all()),
            f"smaller by {_range(gap)}, {_range(share)} of the allowance;"
            f" AdaLoss has the smaller loss in steps {span(-1)} in {_percent(ahead)} of the runs",
        )
    ]


def near_best_decades(b0: Tensor, loss: Tensor) -> float:
    """Length, in decades of b0, of the longest stretch whose loss is within a factor of 10 of the best.

    Args:
        b0: Ascending, `[b0]`.
        loss: `[b0]`; inf where the method diverges.
    """
    near = ((loss <= NEAR_BEST * loss.min()) & loss.isfinite()).tolist()
    stretches = [list(places) for is_near, places in groupby(range(len(near)), near.__getitem__) if is_near]
    return max((torch.log10(b0[places[-1]] / b0[places[0]]).item() for places in stretches), default=0.0)


def straightness(x: Tensor, y: Tensor) -> float:
    """R^2 of the least-squares line of y on x; NaN if a value is not finite."""
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1].square())


def span(window: int) -> str:
    """The steps of a window of Figure 1, in words."""
    first, last = WINDOWS[window]
    return f"{first} to {last}"


def _range(values: Tensor) -> str:
    return f"{values.min().item():.3g} to {values.max().item():.3g}"


def _percent(values: Tensor) -> str:
    return f"{100 * values.double().mean().item():.0f} %"
