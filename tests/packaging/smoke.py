"""Commands that show an installed wheel at work, and one without its extras asking for them."""

from typing import NamedTuple

_TRACKING = "pip install 'adaloss-lightning[tracking]'"
_RECIPES = "pip install 'adaloss-lightning[recipes]'"
_SWEEP = "adaloss sweep --recipe=sweep_project --methods=adaloss --b0=1 --seeds=1"
_SHORT = "-- --trainer.max_epochs=1"


class Smoke(NamedTuple):
    """A command, run in a folder that holds the examples and nothing else.

    Attributes:
        command: Of the environment, in a shell's words.
        printed: What its output has to hold.
        code: Its exit code.
    """

    command: str
    printed: str
    code: int = 0


SMOKES = {
    "core": (
        # The wheel's code, and not that of a source tree.
        Smoke("python -c 'import adaloss_lightning; print(adaloss_lightning.__file__)'", "site-packages"),
        Smoke("python lightning_callback.py", "accuracy "),
        Smoke("python fabric_loop.py", "loss "),
        Smoke("adaloss --help", "sweep"),
        Smoke("adaloss doctor", _TRACKING, 1),
        Smoke(f"{_SWEEP} {_SHORT}", _TRACKING, 2),
        Smoke("python -m recipes.digits fit", _RECIPES, 1),
        Smoke("python sweep_project.py fit", "jsonargparse", 1),  # LightningCLI's own message
        Smoke("python fine_tune_timm.py .", _RECIPES, 1),
        Smoke("python accelerate_loop.py", "pip install accelerate", 1),
    ),
    "tracking": (
        Smoke(f"{_SWEEP} {_SHORT}", "val/loss"),
        Smoke("adaloss report --experiment=sweep_project --out=report", "report.html"),
        Smoke("adaloss doctor", "Nothing is wrong."),
        Smoke("adaloss sweep --recipe=pendulum --methods=adam --b0=1", _RECIPES, 2),
        Smoke(f"{_SWEEP} --fresh --executor=ray", "Install it: pip install", 2),
    ),
    "recipes": (
        Smoke("python -m recipes.digits fit --optimizer=adaloss_lightning.AdaLoss --trainer.max_epochs=1", "test/acc"),
        Smoke(f"adaloss sweep --recipe=tabular --methods=auto --b0=1 {_SHORT}", "auto"),
        Smoke("adaloss doctor", "Nothing is wrong."),
        Smoke("adaloss leaderboard --quick", "adaloss-lightning[recipes,bench]", 2),
    ),
    "ray": (Smoke(f"{_SWEEP} --executor=ray {_SHORT}", "val/loss"),),
    "bench": (
        Smoke("python -c 'import momo, prodigyopt, dadaptation, schedulefree, dog, sps_safe; print(1 + 1)'", "2"),
    ),
    "docs": (Smoke("python -m mkdocs --version", "mkdocs"),),
    "dev": (
        Smoke("python -m pytest --version", "pytest "),
        Smoke("python -m ruff --version", "ruff "),
        Smoke("python -m mypy --version", "mypy "),
        Smoke("python accelerate_loop.py", "loss "),
        Smoke("python -c 'import recipes.lstm_news.__main__, pytorch_lightning, torchtext, ray; print(1 + 1)'", "2"),
    ),
}
