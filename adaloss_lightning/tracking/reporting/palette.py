"""Colours of rows and methods, in figures and in MLflow's charts."""

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is left out, too faint for lines on white.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
COLOURS = len(_COLOURS)


def colour_of(index: int) -> str:
    """Colour of a row or method."""
    return _COLOURS[index % COLOURS]
