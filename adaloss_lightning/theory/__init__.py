"""The quantities of the theory, as pure functions of torch tensors."""

from adaloss_lightning.theory.critical_step import (
    critical_b,
    crossing_bound,
    largest_eigenvalue,
    logarithmic_crossing_bound,
)
from adaloss_lightning.theory.gram import g_empirical, h_empirical, h_infinity, lambda_0, spectral_norm

__all__ = [
    "critical_b",
    "crossing_bound",
    "g_empirical",
    "h_empirical",
    "h_infinity",
    "lambda_0",
    "largest_eigenvalue",
    "logarithmic_crossing_bound",
    "spectral_norm",
]
