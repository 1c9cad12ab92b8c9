"""Methods of the leaderboard: their names, their one hyper-parameter, and the decades that are tried of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from adaloss_lightning.tracking.errors import SweepError
from recipes.leaderboard.tasks import Task

FOLDER = Path(__file__).with_name("methods")
DECADES = 6
AUTO = "auto"

Family = Literal["ours", "paper", "standard", "peer"]


@dataclass(frozen=True)
class Method:
    """A way to train, `methods/<name>.yaml`.

    Attributes:
        name: Its own, and that of its file.
        label: What the page calls it.
        family: `ours`, the paper's baselines, what most people use, or a peer: a package of other authors.
        default: Its authors' value of the hyper-parameter.
        lowest: The lowest of the values, `DECADES` of them with the default among them; None where nothing is tuned.
        parameter: The optimizer's argument that is tuned.
        package: What has to be installed, as pip and as Python call it; None for torch and this package.
        with_batch_norm: The default for networks with BatchNorm, where the authors have another one.
    """

    name: str
    label: str
    family: Family
    default: float = 1.0
    lowest: float | None = None
    parameter: str = "lr"
    package: tuple[str, str] | None = None
    with_batch_norm: float | None = None

    @property
    def config(self) -> Path:
        """Its YAML file."""
        return FOLDER / f"{self.name}.yaml"

    def values(self) -> tuple[float, ...]:
        """What is tried, a value a decade."""
        if self.lowest is None:
            return ()
        return tuple(float(f"{self.lowest * 10**decade:.6g}") for decade in range(DECADES))

    def default_for(self, task: Task) -> float | None:
        """The authors' value for a task; None where there is nothing to choose."""
        if self.lowest is None:
            return None
        return self.with_batch_norm if task.has_batch_norm and self.with_batch_norm is not None else self.default

    def suits(self, task: Task) -> bool:
        """Whether the task has the method: of the paper's ones those that its recipe has."""
        own = self.family == "paper" or (self.family == "ours" and self.name != AUTO)
        return not own or (FOLDER.parents[1] / task.recipe / f"{self.name}.yaml").exists()


METHODS = (
    Method(AUTO, "ours: auto=True around Adam", "ours"),
    Method("adaloss", "AdaLoss as published", "ours", 0.1, 1e-3),
    Method("adamloss", "AdamLoss as published", "ours", 0.01, 1e-3),
    Method("adagrad_norm", "AdaGrad-Norm", "paper", 1.0, 1e-3),
    Method("sgd_constant", "SGD-Constant", "paper", 0.1, 1e-5),
    Method("sgd_decay_sqrt", "SGD-DecaySqrt", "paper", 0.1, 1e-4),
    Method("adam_sqrt", "AdamSqrt", "paper", 0.01, 1e-4),
    Method("adam_constant", "Adam, constant", "standard", 1e-3, 1e-5),
    Method("adam_cosine", "Adam, warm-up and cosine", "standard", 1e-3, 1e-5),
    Method("adamw_constant", "AdamW, constant", "standard", 1e-3, 1e-5),
    Method("adamw_cosine", "AdamW, warm-up and cosine", "standard", 1e-3, 1e-5),
    Method("sgd_momentum_constant", "SGD with momentum, constant", "standard", 0.1, 1e-5),
    Method("sgd_momentum_cosine", "SGD with momentum, warm-up and cosine", "standard", 0.1, 1e-5),
    Method("prodigy", "Prodigy", "peer", 1.0, 1e-3, "d_coef", ("prodigyopt", "prodigyopt")),
    Method("dadapt_adam", "D-Adaptation (Adam)", "peer", 1.0, 1e-3, "lr", ("dadaptation", "dadaptation")),
    Method("dog", "DoG", "peer", 1e-6, 1e-8, "reps_rel", ("dog-optimizer", "dog"), 1e-4),
    Method("schedule_free", "Schedule-Free AdamW", "peer", 0.0025, 2.5e-5, "lr", ("schedulefree", "schedulefree")),
    Method("momo_adam", "MoMo-Adam", "peer", 0.01, 1e-4, "lr", ("momo-opt", "momo")),
    Method("sps_safe", "SPS_safe", "peer", 1.0, 1e-3, "M", ("sps-safe", "sps_safe")),
)

TUNING_FREE = ("prodigy", "dadapt_adam", "dog", "schedule_free", "momo_adam")  # whose defaults ours is to match
ADAMW = ("adamw_constant", "adamw_cosine")  # whose best tuned run ours is to match


def chosen_methods(names: Sequence[str] | None) -> tuple[Method, ...]:
    """The methods of these names, always with `auto`, which the others are compared with; None takes all.

    Raises:
        SweepError: There is no such method, or its package is not installed.
    """
    known = {method.name: method for method in METHODS}
    if unknown := sorted(set(names or ()) - known.keys()):
        raise SweepError(f"Unknown method {unknown[0]!r}. There are {', '.join(known)}.")
    methods = tuple(method for method in METHODS if not names or method.name in (AUTO, *names))
    missing = [one.package[0] for one in methods if one.package is not None and find_spec(one.package[1]) is None]
    if missing:
        raise SweepError(
            f"The leaderboard runs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            "Install them with pip install 'adaloss-lightning[recipes,bench]', or choose others with --methods."
        )
    return methods
