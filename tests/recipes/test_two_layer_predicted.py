"""Baselines of the two-layer recipe and the page of predictions, against slow loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from adaloss_lightning.theory.gram import h_empirical
from recipes.shared import numbers
from recipes.two_layer import predicted
from recipes.two_layer.baselines import du_rate, gradient_descent, residual_adaloss
from recipes.two_layer.descent import MakeOptimizer, descend, new_network, training_set


@pytest.mark.parametrize(("make", "eta", "alpha"), [
    (residual_adaloss(2.0, 0.5, alpha=0.3), 2.0, 0.3), (gradient_descent(0.7), 0.7, 0.0),
])  # fmt: skip
def test_baseline_is_its_recurrence(make: MakeOptimizer, eta: float, alpha: float) -> None:
    n, d, m = 4, 3, 6
    x, y = training_set(n, d)
    network = new_network(d, m, seed=2)
    w, a, rows, labels = network.w.detach().numpy().copy(), network.a.numpy(), x.numpy(), y.numpy()
    found = descend(network, (x, y), make, steps=5)
    b2, losses = 0.25 if alpha else 1.0, []
    for _ in range(5):
        errors = [sum(a[r] * max(w[r] @ rows[i], 0) for r in range(m)) / math.sqrt(m) - labels[i] for i in range(n)]
        losses.append(sum(error**2 for error in errors) / 2)
        b2 += alpha * math.sqrt(sum(error**2 for error in errors))
        slope = np.zeros_like(w)
        for r in range(m):
            for i in range(n):
                if w[r] @ rows[i] >= 0:
                    slope[r] += errors[i] * a[r] * rows[i] / math.sqrt(m)
        w -= eta / math.sqrt(b2) * slope
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)
    np.testing.assert_allclose(network.w.detach(), w, rtol=1e-10)


def test_du_rate_is_lambda_0_over_4_n_squared() -> None:
    assert du_rate(torch.diag(torch.tensor([0.5, 0.2], dtype=torch.float64))) == pytest.approx(0.2 / 16)


def test_predicted_losses_are_exact_while_no_pattern_changes() -> None:
    x, _ = training_set(5, 5)
    network = new_network(5, 400, seed=0)
    y = network(x).detach() + 1e-6  # so near that no pattern changes
    h, residual = h_empirical(x, network.w), network(x).detach() - y
    losses = descend(network, (x, y), gradient_descent(0.5), steps=6).losses
    np.testing.assert_allclose(predicted.predicted_losses(h, residual, [0.5] * 5), losses, rtol=1e-4)


def test_page_has_every_prediction(folder: Path) -> None:
    predicted.main(["--method=residual_adaloss", "--width=32", "--steps=6", "--out=made"])
    text = Path("made", "two_layer_predicted_residual_adaloss.md").read_text()
    assert all(name in text for name in ("measured", "lambda_0", *predicted._DISTANCES.values()))
    assert Path("made", "two_layer_predicted_residual_adaloss.png").stat().st_size > 0
    again = predicted.report(numbers.loads(Path("made", "two_layer_predicted_residual_adaloss.json").read_text()))
    assert again.text == text


def test_fitted_slope_stops_where_rounding_begins() -> None:
    losses = [2.0 * 0.1**k for k in range(26)] + [1e-25, 3e-25, 0.0]
    run = predicted.Trace(losses, losses, [], {}, {})
    assert run.fitted(losses) == pytest.approx(math.log(0.1))


@pytest.mark.parametrize("option", ["--steps=3", "--width=0"])
def test_impossible_sizes_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        predicted.main([option])
    assert f"Invalid {option}. Must be >=" in capsys.readouterr().err
