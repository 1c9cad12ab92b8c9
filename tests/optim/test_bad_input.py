"""Each wrong argument: one clear error with the value and the bound, and nothing is touched."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt

from . import stand_ins
from .methods import METHODS, equal, make_parameters, snapshot, train


def sgd_wrapped(params: Any, lr: Any = 0.1, **keywords: Any) -> LossAdaptive:
    return LossAdaptive(torch.optim.SGD(params, lr=lr), **keywords)


NAN, INF = math.nan, math.inf
OURS = ((AdaLoss, AdamLoss, sgd_wrapped, AdaGradNorm, SGDDecaySqrt, AdamSqrt), (AdaLoss, AdamLoss, sgd_wrapped))
SGDS, ADAMS = (AdaLoss, AdaGradNorm, SGDDecaySqrt), (AdamLoss, AdamSqrt)

# who, which argument, bad values, what the message says is right
TABLE: list[tuple[tuple[Callable[..., Any], ...], str, list[Any], str]] = [
    (OURS[0], "b0", [-1.0, 0.0, 0, NAN, -INF], "> 0"),
    (OURS[0], "b0", [INF], "finite"),
    (OURS[0], "b0", ["1", None, [1.0], torch.ones(2), 1j, 10**400], "a number > 0"),
    ((AdaLoss, sgd_wrapped, AdaGradNorm, SGDDecaySqrt), "b0", [1e-200, 1e200], "> 0"),  # their square is no float64 > 0
    (OURS[1], "alpha", [-1.0, -1e-9, NAN, -INF], ">= 0"),
    (OURS[1], "alpha", [INF], "finite"),
    (OURS[1], "alpha", ["1", None], "a number >= 0"),
    (OURS[1], "c", [NAN, INF, -INF], "finite"),
    (OURS[1], "c", ["1", None, torch.ones(2)], "a number"),
    ((*SGDS, *ADAMS), "lr", [-0.1, NAN, -INF], ">= 0"),
    ((*SGDS, *ADAMS), "lr", [INF], "finite"),
    ((*SGDS, *ADAMS), "lr", ["0.1", None, torch.ones(2)], "a number >= 0"),
    ((*SGDS, *ADAMS), "lr", [torch.tensor(-0.1), torch.tensor([NAN])], ">= 0"),
    ((*SGDS, *ADAMS), "weight_decay", [-0.1, NAN], ">= 0"),
    ((*SGDS, *ADAMS), "weight_decay", [INF], "finite"),
    (SGDS, "momentum", [-0.1, NAN], ">= 0"),
    (SGDS, "momentum", [INF], "finite"),
    (SGDS, "dampening", [NAN, INF], "finite"),
    (SGDS, "nesterov", [True], "momentum > 0"),
    (ADAMS, "eps", [-1e-8, NAN], ">= 0"),
    ((SGDDecaySqrt,), "c_s", [-0.1, NAN], ">= 0"),
    ((SGDDecaySqrt,), "c_s", [INF], "finite"),
    ((SGDDecaySqrt,), "form", ["sqrt", None, 1], "'root', 'linear'"),
    ((AdaGradNorm,), "granularity", ["row", None, 1], "'global', 'channel'"),
    ((sgd_wrapped,), "rule", ["adam", None, 1], "'adaloss', 'adamloss'"),
    (OURS[1], "scale", ["loss", None, 1], "'lr', 'gradient'"),
]
NOT_SQUARED = [(AdamSqrt, {}), (SGDDecaySqrt, {"form": "linear"}), (AdamLoss, {})]
CASES = [
    pytest.param(method, name, value, right, id=f"{method.__name__}-{name}={value!r}"[:60])
    for methods, name, values, right in TABLE
    for method in methods
    for value in values
]


@pytest.mark.parametrize(("method", "name", "value", "right"), CASES)
def test_at_construction(method: Callable[..., Any], name: str, value: Any, right: str) -> None:
    p = Parameter(torch.ones(2))
    pattern = rf"^Invalid {name}=.* Must (be .*{re.escape(right)}|have .*{re.escape(right)})"
    with pytest.raises(ValueError, match=pattern) as raised:
        method([p], **{name: value})
    assert repr(value) in str(raised.value)
    assert torch.equal(p.detach(), torch.ones(2))


def test_the_form_of_the_message() -> None:
    with pytest.raises(ValueError, match=r"^Invalid b0=-1\.0\. Must be > 0\.$"):
        AdaLoss([Parameter(torch.ones(1))], b0=-1.0)


@pytest.mark.parametrize("method", ADAMS)
@pytest.mark.parametrize(
    "betas", [(1.0, 0.9), (-0.1, 0.9), (0.9, 1.0), (0.9, NAN), (0.9,), (0.9, 0.9, 0.9), 0.9, None, "ab"]
)
def test_betas(method: Any, betas: Any) -> None:
    with pytest.raises(ValueError, match=r"^Invalid betas.*Must be "):
        method([Parameter(torch.ones(1))], betas=betas)


IN_A_GROUP: list[tuple[str, list[Any]]] = [
    ("adaloss_b0", [-1.0, 0.0, NAN, "1"]),
    ("lr", [-0.1, NAN]),
    ("weight_decay", [-0.1, NAN]),
]
LOSS_SETTINGS: list[tuple[str, list[Any]]] = [("adaloss_alpha", [-1.0, NAN, None]), ("adaloss_c", [NAN, INF, "0"])]


@pytest.mark.parametrize("method", [*SGDS, *ADAMS])
@pytest.mark.parametrize("late", [False, True], ids=["at construction", "add_param_group"])
def test_in_a_group(method: Callable[..., Any], late: bool) -> None:
    table = IN_A_GROUP + (LOSS_SETTINGS if method in (AdaLoss, AdamLoss) else [])
    table += [("momentum", [-0.5])] if method in SGDS else [("betas", [(1.0, 0.9), (0.9,)]), ("eps", [-1.0])]
    table += [("adaloss_form", ["sqrt"]), ("adaloss_c_s", [-1.0])] if method is SGDDecaySqrt else []
    for key, values in table:
        for value in values:
            p, q = Parameter(torch.ones(2)), Parameter(torch.ones(2))
            name = key.removeprefix("adaloss_")
            if not late:
                with pytest.raises(ValueError, match=f"^Invalid {name}.*Must be "):
                    method([{"params": [p]}, {"params": [q], key: value}])
                continue
            optimizer = method([p])
            before = snapshot(optimizer, [p])
            with pytest.raises(ValueError, match=f"^Invalid {name}.*Must be "):
                optimizer.add_param_group({"params": [q], key: value})
            assert len(optimizer.param_groups) == 1
            assert equal(before, snapshot(optimizer, [p]))
            optimizer.add_param_group({"params": [q]})  # and the parameter is free to be added right
            train(optimizer, [p, q], range(1))


def test_groups_of_a_wrapped_base() -> None:
    p, q = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    base = torch.optim.SGD([{"params": [p]}, {"params": [q], "adaloss_b0": -1.0}], lr=0.1)
    before = [set(group) for group in base.param_groups]
    with pytest.raises(ValueError, match=r"^Invalid b0=-1\.0\. Must be > 0\.$"):
        LossAdaptive(base)
    assert [set(group) for group in base.param_groups] == before  # nothing of ours was left in it


def test_a_refused_wrapping_leaves_the_base_as_it_was() -> None:
    p = Parameter(torch.ones(2))
    base = torch.optim.SGD([p], lr=0.1)
    group = dict(base.param_groups[0])
    for keywords in ({"b0": -1.0}, {"alpha": -1.0}, {"c": NAN}, {"rule": "adam"}, {"scale": "loss"}):
        with pytest.raises(ValueError, match=r"^Invalid"):
            LossAdaptive(base, **keywords)
        assert base.param_groups[0] == group


def test_a_group_that_the_base_refuses() -> None:
    params = make_parameters()
    for name, method in METHODS.items():
        optimizer = method(params[:1])
        with pytest.raises(ValueError, match=r"more than one parameter group"):
            optimizer.add_param_group({"params": params[:1]})
        with pytest.raises(TypeError):
            optimizer.add_param_group({"params": [3.0]})
        assert len(optimizer.param_groups) == len(optimizer.b) == 1, name


def test_fused_for_complex_leaves_no_group_behind() -> None:
    optimizer = AdaLoss([Parameter(torch.ones(2))])
    z = Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises((ValueError, RuntimeError), match="fused"):
        optimizer.add_param_group({"params": [z], "fused": True})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [z]})


@pytest.mark.parametrize("method", [*SGDS, *ADAMS])
def test_fused_for_parameters_without_memory(method: Callable[..., Any]) -> None:
    p = Parameter(torch.empty(2, device="meta"))
    with pytest.raises(ValueError, match=r"Invalid fused=True\. Must be None or False.*meta.*to_empty\(\)"):
        method([p], fused=True)
    assert not method([p]).param_groups[0]["fused"]


class NeedsClosure(Optimizer):
    """As SAM: its step calls the closure several times."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any) -> None:
        closure()
        closure()


class NoRate(Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        pass


BASES: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "LBFGS": (lambda p: torch.optim.LBFGS(p), ValueError, "LBFGS"),
    "Rprop": (lambda p: torch.optim.Rprop(p), ValueError, "Rprop"),
    "needs a closure": (NeedsClosure, ValueError, "NeedsClosure"),
    "needs a closure, whatever its signature says": (stand_ins.SharpnessAware, ValueError, "without a closure"),
    "needs one within": (lambda p: stand_ins.Lookahead(stand_ins.SharpnessAware(p)), ValueError, "without a closure"),
    "takes the loss": (stand_ins.UsesLoss, ValueError, r"does not adapt to the loss itself.*AdaLossCallback"),
    "no lr": (NoRate, ValueError, "lr"),
    "adaptive already": (lambda p: LossAdaptive(torch.optim.SGD(p)), ValueError, "adaptive"),
    "AdaLoss": (lambda p: AdaLoss(p), ValueError, "adaptive"),
    "adaptive within": (lambda p: stand_ins.Lookahead(AdaLoss(p)), ValueError, "AdaLoss is adaptive already"),
    "baseline": (lambda p: AdaGradNorm(p), ValueError, "adaptive"),
    "parameters": (lambda p: p, TypeError, "torch.optim.Optimizer"),
    "None": (lambda p: None, TypeError, "torch.optim.Optimizer"),
    "class": (lambda p: torch.optim.SGD, TypeError, "torch.optim.Optimizer"),
    "scheduler": (lambda p: torch.optim.lr_scheduler.StepLR(torch.optim.SGD(p), 1), TypeError, "torch.optim.Optimizer"),
}


@pytest.mark.parametrize("base", BASES)
def test_bases_that_cannot_be_adapted(base: str) -> None:
    make, error, says = BASES[base]
    p = Parameter(torch.ones(2))
    with pytest.raises(error, match=says) as raised:
        LossAdaptive(make([p]))
    assert str(raised.value).startswith("Invalid base=")
    assert "Must " in str(raised.value)
    assert torch.equal(p.detach(), torch.ones(2))


@pytest.mark.parametrize("method", [*SGDS, *ADAMS, sgd_wrapped])
def test_no_parameters(method: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        method([])
    with pytest.raises(ValueError, match="empty parameter list"):
        method(iter(()))


@pytest.mark.parametrize("method", [*SGDS, *ADAMS])
def test_a_misspelt_keyword(method: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="b_0"):
        method([Parameter(torch.ones(1))], b_0=1.0)


def test_b0_is_no_positional_argument() -> None:
    with pytest.raises(TypeError):
        LossAdaptive(torch.optim.SGD([Parameter(torch.ones(1))]), 2.0)
    with pytest.raises(TypeError):
        AdaLoss([Parameter(torch.ones(1))], 0.1, 2.0)


def test_legal_borders() -> None:
    p = Parameter(torch.ones(2))
    cases: list[tuple[Any, dict[str, Any]]] = [
        (AdaLoss, {"lr": 0.0}),
        (AdaLoss, {"lr": 1, "b0": 2, "alpha": 3, "c": 4}),
        (AdaLoss, {"alpha": 0.0}),
        (AdaLoss, {"c": -5.0}),
        (AdaLoss, {"b0": 1e-150}),
        (AdaLoss, {"b0": torch.tensor(2.0)}),
        (AdamLoss, {"b0": 1e-300}),
        (AdamLoss, {"eps": 0.0}),
        (AdamLoss, {"betas": [0.0, 0.0]}),
        (SGDDecaySqrt, {"c_s": 0.0, "form": "linear"}),
    ]
    for method, keywords in cases:
        optimizer = method([p], **keywords)
        p.grad = torch.ones(2)
        optimizer.step(loss=1.0)
        assert torch.isfinite(p).all(), keywords


def test_importing_the_package_imports_no_more_than_torch_and_lightning() -> None:
    script = (
        "import sys, adaloss_lightning\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(names & {'mlflow', 'timm', 'torchtext', 'gymnasium', 'recipes'}))\n"
        "print(*[name for name in sys.modules if name.startswith('adaloss_lightning.tracking')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=None)
    assert done.stdout.split() == []


@pytest.mark.parametrize(("method", "settings"), NOT_SQUARED)
@pytest.mark.parametrize("b0", [1e-200, 1e200])
def test_a_b0_that_is_never_squared_may_be_of_any_size(method: Any, settings: dict[str, Any], b0: float) -> None:
    assert method(make_parameters(), b0=b0, **settings).b[0].item() == b0


def test_a_group_that_is_no_dictionary() -> None:
    optimizer = AdaLoss(make_parameters())
    with pytest.raises(TypeError, match=r"Invalid param_group of type list\. Must be a dict with 'params'"):
        optimizer.add_param_group(make_parameters(seed=1))


def test_channels_of_sharded_parameters() -> None:
    params = make_parameters()
    params[1].placements = ()  # what a DTensor has
    with pytest.raises(ValueError, match=r"Invalid granularity='channel' for sharded parameters.*Must be 'global'"):
        AdaGradNorm(params, granularity="channel")
