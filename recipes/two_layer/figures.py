"""The report's figures."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure

from recipes.shared.figures import COLOURS, MARKERS, panels, styled
from recipes.two_layer.experiments import FLOOR, Convergence, Norms, Stochastic, Widths

_CEILING = 1e6  # losses that diverge go on to 1e300, where log axes overflow


@styled
def draw_convergence(found: Convergence) -> Figure:
    """L against the step: constant steps, AdaLoss, AdaLoss on both layers; reds start below the critical value."""
    figure, (axes,) = panels(11, 4, 1, 3, sharey=True)
    runs = (
        ("constant step $\\eta / b_0$", found.constant),
        ("AdaLoss", found.adaloss),
        ("AdaLoss, both layers trained", found.joint_adaloss),
    )
    colours = _sides([b0 / found.critical for b0 in found.b0s])
    for ax, (title, descents) in zip(axes, runs, strict=True):
        for b0, colour, descent in zip(found.b0s, colours, descents, strict=True):
            label = f"$b_0$ = {b0 / found.critical:g} $b^*$"
            ax.plot([min(loss, 10 * _CEILING) for loss in descent.losses], color=colour, linewidth=1.8, label=label)
        ax.set(title=title, xlabel="step")
    axes[2].plot(
        found.joint_constant.losses, color="black", linewidth=1.5, linestyle=":",
        label=f"constant, $b_0$ = {found.joint_critical / found.critical:.3g} $b^*$",
    )  # fmt: skip
    axes[0].set_yscale("log")
    axes[0].set_ylim(FLOOR, _CEILING)
    axes[0].set_ylabel("$L = \\frac{1}{2} \\|y - u\\|^2$")
    axes[2].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def draw_widths(found: Widths) -> Figure:
    """The distances against m on log axes, each beside the slope -1/2."""
    figure, ((ax,),) = panels(7.2, 4.4, 1, 1)
    names = {
        "weights": "$\\max_r \\|w_r(k) - w_r(0)\\|$",
        "sampling": "$\\|H(0) - H^\\infty\\|$",
        "drift": "$\\|H(k) - H(0)\\|$",
        "patterns": "share of activations changed",
    }
    for (name, label), colour, marker in zip(names.items(), COLOURS, MARKERS, strict=False):
        values = getattr(found, name)
        ax.plot(found.widths, values, marker, color=colour, label=f"{label}: slope {found.slope(name):.2f}")
        reference = [values[0] * (width / found.widths[0]) ** -0.5 for width in found.widths]
        ax.plot(found.widths, reference, color=colour, linewidth=1, linestyle="--", alpha=0.7)
    ax.set(title="distance from the start (dashed: slope $-1/2$)", xlabel="width m")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def draw_norms(found: dict[str, Norms]) -> Figure:
    """Figure 5: norm(H-infinity) against n, and the steps that gradient descent needs."""
    figure, ((left, right),) = panels(9, 3.8, 1, 2)
    for (family, norms), colour, marker in zip(found.items(), COLOURS, MARKERS, strict=False):
        left.plot(norms.sizes, norms.norm, marker=marker, color=colour, label=family)
        reached = [(n, steps) for n, steps in zip(norms.sizes, norms.steps, strict=True) if steps is not None]
        right.plot(*zip(*reached, strict=True) if reached else ([], []), marker=marker, color=colour)
    sizes = next(iter(found.values())).sizes
    for ax in (left, right):
        ax.set(xscale="log", ylim=(0, None), xlabel="n")
        ax.set_xticks(sizes, [f"{n}" for n in sizes])
        ax.minorticks_off()
    left.set_title("$\\|H^\\infty\\|$")
    right.set_title("steps T to $L \\leq 10^{-4}$, $\\eta = 1 / \\|H^\\infty\\|$")
    left.legend()
    return figure


@styled
def draw_stochastic(found: Sequence[Stochastic], b0s: Sequence[float], marks: Sequence[int]) -> Figure:
    """Figure 6: L over the training set against b0, after each number of steps."""
    figure, grid = panels(10, 2.9 * len(found), len(found), len(marks), sharex=True, sharey="row")
    for row, result in zip(grid, found, strict=True):
        for place, (ax, mark) in enumerate(zip(row, marks, strict=True)):
            for index, method in enumerate(("adaloss", "adagrad_norm")):
                losses = [max(result.found[method, b0][place][0], FLOOR) for b0 in b0s]
                ax.plot(
                    b0s, losses, color=COLOURS[index], marker=MARKERS[index], label=method,
                    markersize=9 - 4 * index, linestyle=("-", "--")[index],
                )  # fmt: skip
            rows = "1 row" if result.batch_size == 1 else f"{result.batch_size} rows"
            ax.set(title=f"{mark} steps of {rows}", xlabel="$b_0$")
            ax.loglog()
        row[0].set_ylabel("L, training set")
    grid[0][0].legend()
    return figure


def _sides(ratios: Sequence[float]) -> list[object]:
    """Reds for b0 below the critical value, blues from it on; the darkest is the farthest from it."""
    below = sorted(ratio for ratio in ratios if ratio < 1)
    above = sorted((ratio for ratio in ratios if ratio >= 1), reverse=True)
    shade = {ratio: 0.9 - 0.5 * side.index(ratio) / len(side) for side in (below, above) for ratio in side}
    return [colormaps["Reds" if ratio < 1 else "Blues"](shade[ratio]) for ratio in ratios]
