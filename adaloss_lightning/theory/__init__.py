"""The quantities of the theory, as pure functions of tensors, arrays and lists."""

from adaloss_lightning.theory.assumptions import check_assumption_1, check_assumption_2, parallel_rows
from adaloss_lightning.theory.critical_step import (
    critical_b,
    crossing_bound,
    largest_eigenvalue,
    lemma_1_bound,
    logarithmic_crossing_bound,
)
from adaloss_lightning.theory.extremes import extreme_eigenvalues
from adaloss_lightning.theory.gram import g_empirical, h_empirical, h_infinity, lambda_0, spectral_norm
from adaloss_lightning.theory.sharpness import Sharpness, sharpness
from adaloss_lightning.theory.theorems import (
    critical_b_two_layer,
    du_steps,
    du_width,
    regression_steps,
    theorem_2_steps,
    theorem_3_alpha,
    theorem_3_steps,
)

__all__ = [
    "Sharpness",
    "check_assumption_1",
    "check_assumption_2",
    "critical_b",
    "critical_b_two_layer",
    "crossing_bound",
    "du_steps",
    "du_width",
    "extreme_eigenvalues",
    "g_empirical",
    "h_empirical",
    "h_infinity",
    "lambda_0",
    "largest_eigenvalue",
    "lemma_1_bound",
    "logarithmic_crossing_bound",
    "parallel_rows",
    "regression_steps",
    "sharpness",
    "spectral_norm",
    "theorem_2_steps",
    "theorem_3_alpha",
    "theorem_3_steps",
]
