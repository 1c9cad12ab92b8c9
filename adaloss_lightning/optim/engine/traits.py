"""Traits of a base optimizer, measured on a toy copy of it: neither its class name nor its signature tells.

The toy has one small parameter for each group of the base, on the CPU. It steps without hooks, schedulers and
collectives, and nothing of the base is changed. What torch.optim's own classes do is known and not measured.
"""

import copy
import inspect
import math
import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import ASGD, LBFGS, SGD, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from adaloss_lightning.optim.engine.wrapper import OptimizerWrapper
from adaloss_lightning.optim.recurrence import Rule

# Parts of the names of bases that normalize their gradient, for those of which no toy can be made.
_NORMALIZING_NAMES = (
    "ada", "adopt", "came", "lamb", "lars", "lion", "muon", "prodigy", "ranger", "rmsprop", "shampoo", "soap", "sophia",
    "yogi",
)  # fmt: skip
_FACTOR = 8.0  # between the gradients of two runs
_STEPS, _LAST = 8, 2  # RAdam's first five are plain momentum
_RATE = 0.01  # a schedule may begin at 0, where nothing could be measured
_SIZE = 4  # of each dimension of a toy parameter, at most
Result = TypeVar("Result")


def class_of_torch(base: Optimizer) -> type[Optimizer] | None:
    """The class of torch.optim that this is; None for a subclass too, for that may do anything."""
    kind: type[Optimizer] = getattr(type(base), "_torch", type(base))  # our fused ones name theirs
    return kind if kind.__module__.startswith("torch.optim.") else None


def default_rule(base: Optimizer) -> Rule:
    """``"adamloss"`` for a base that normalizes its gradient, as Adam does, ``"adaloss"`` for one that does not."""
    return "adamloss" if normalizes_gradient(base) else "adaloss"


def normalizes_gradient(base: Optimizer) -> bool:
    """Whether the length of a step hardly depends on the length of the gradients.

    Eight times the gradient moves SGD eight times as far, and Adam, Lion or Prodigy as far as before.
    """
    kind = class_of_torch(base)
    if kind is not None:
        return not issubclass(kind, (SGD, ASGD, LBFGS))
    with_g, with_more, without = (_measured(base, _moves(factor)) for factor in (1.0, _FACTOR, 0.0))
    if with_g is not None and with_more is not None:
        drift = torch.zeros(()) if without is None else without.nan_to_num()  # of weights that a base pulls back
        ratio = ((with_more - drift).norm() / (with_g - drift).norm()).item()
        if math.isfinite(ratio):
            return bool(ratio < math.sqrt(_FACTOR))
    for inner in inner_optimizers(base):
        return normalizes_gradient(inner)
    names = [cls.__name__.lower() for cls in type(base).__mro__]
    return any(part in name for name in names for part in _NORMALIZING_NAMES)


def needs_closure(base: Optimizer) -> bool:
    """Whether ``step`` works with a closure alone, as that of LBFGS or SAM, whatever its signature says."""
    kind = class_of_torch(base)
    if kind is not None:
        return issubclass(kind, LBFGS)
    parameters = list(inspect.signature(type(base).step).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters):
        return True
    return _measured(base, _steps) is None and _measured(base, _steps_with_closure) is not None


def takes_loss(base: Optimizer) -> bool:
    """Whether ``step`` has a parameter ``loss``, as that of MoMo: the base makes its own use of the loss."""
    if class_of_torch(base) is not None or isinstance(base, OptimizerWrapper):
        return False
    return "loss" in inspect.signature(type(base).step).parameters


def wants_one_rate(base: Optimizer) -> bool:
    """Whether ``step`` refuses groups whose ``lr`` differ, as those of Prodigy and D-Adaptation do."""
    if class_of_torch(base) is not None:
        return False
    if _measured(base, _steps_with_two_groups(_RATE)) is None:
        return any(map(wants_one_rate, inner_optimizers(base)))
    return _measured(base, _steps_with_two_groups(_RATE / 2)) is None


def inner_optimizers(optimizer: Optimizer) -> Iterator[Optimizer]:
    """Optimizers that it keeps in its attributes and steps, as ``Lookahead`` does, and those in turn."""
    found = _within(optimizer, seen=set())
    return (one for one in found if isinstance(one, Optimizer) and one is not optimizer)


# -- measuring ---------------------------------------------------------------------------------------------------------


class _CannotCopyError(Exception):
    """The base holds something that a toy must not touch."""


class _NoCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses collectives: other ranks need not be measuring now."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            raise _CannotCopyError(f"{func} is a collective")
        return func(*args, **(kwargs or {}))


def _measured(base: Optimizer, run: Callable[[Optimizer], Result]) -> Result | None:
    """What ``run`` makes of a toy; None where no toy can be made or it raises.

    A base that has just been built, and float64, give the cleanest numbers. Some need the state that their constructor
    has made (Lookahead), or float32.
    """
    for with_state in (False, True):
        for dtype in (torch.float64, torch.float32):
            try:
                with ExitStack() as stack:
                    stack.enter_context(torch.random.fork_rng(devices=[]))
                    stack.enter_context(warnings.catch_warnings(action="ignore"))
                    stack.enter_context(_NoCollectives())  # type: ignore[no-untyped-call]
                    if "torch._dynamo" in sys.modules:  # importing it takes seconds
                        stack.enter_context(torch.compiler.set_stance("force_eager"))  # torchao compiles its steps
                    torch.default_generator.manual_seed(0)  # torch.manual_seed would seed accelerators too
                    return run(_toy_of(base, dtype, with_state))
            except Exception:  # whatever a base does not like about a toy
                continue
    return None


def _toy_of(base: Optimizer, dtype: torch.dtype, with_state: bool) -> Optimizer:
    memo: dict[int, Any] = {}
    first: set[int] = set()  # the parameter of each group whose state its toy gets
    for group in base.param_groups:
        parameters: list[Tensor] = group["params"]
        if not parameters:
            continue
        first.add(id(parameters[0]))
        shape = [max(1, min(size, _SIZE)) for size in parameters[0].shape]
        toy = _small(parameters[0], dtype) if with_state else torch.ones(shape, dtype=dtype)
        memo |= dict.fromkeys(map(id, parameters), Parameter(toy.requires_grad_()))
    optimizers = []
    for part in _within(base, seen=set()):
        if isinstance(part, nn.Module):
            raise _CannotCopyError(f"a module: {type(part).__name__}")
        if isinstance(part, Optimizer):
            if hasattr(type(part), "__del__"):
                raise _CannotCopyError(f"{type(part).__name__} would free with its copy what it needs itself")
            optimizers.append(part)
        elif id(part) not in memo:
            memo[id(part)] = _small(part, dtype)
    memo |= {id(optimizer): object.__new__(type(optimizer)) for optimizer in optimizers}
    for optimizer in optimizers:
        kept = {p: values for p, values in optimizer.state.items() if not isinstance(p, Tensor) or id(p) in first}
        kept = kept if with_state else {}
        memo |= {id(part): _small(part, dtype) for part in _within(kept, seen=set(memo)) if isinstance(part, Tensor)}
        _fill(memo[id(optimizer)], optimizer, copy.deepcopy(kept, memo), memo)
    copied: Optimizer = memo[id(base)]
    for group in copied.param_groups:
        group["params"] = list(dict.fromkeys(group["params"]))
        lr = group.get("lr")
        group["lr"] = torch.full_like(lr, _RATE, device="cpu") if isinstance(lr, Tensor) else _RATE
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    if callable(train := getattr(copied, "train", None)):  # Schedule-Free
        train()
    return copied


def _fill(toy: Optimizer, optimizer: Optimizer, state: dict[Any, Any], memo: dict[int, Any]) -> None:
    """Give a toy what the optimizer has, but no hooks, and not the ``step`` that a scheduler has put there."""
    for name, value in vars(optimizer).items():
        if name == "state":
            toy.__dict__[name] = defaultdict(dict, state)
        elif name != "step":
            toy.__dict__[name] = OrderedDict() if name.endswith("_hooks") else copy.deepcopy(value, memo)
    step: Any = type(optimizer).step
    # torch's wrapper around it would run the hooks of all optimizers
    toy.__dict__["step"] = MethodType(step.__wrapped__ if getattr(step, "hooked", False) else step, toy)


def _within(value: Any, seen: set[int]) -> Iterator[Any]:
    """Tensors, optimizers and modules in containers and in the attributes of optimizers, each once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (Tensor, nn.Module, Optimizer)):
        yield value
        attributes = vars(value) if isinstance(value, Optimizer) else {}
        value = [attribute for name, attribute in attributes.items() if name != "state"]
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _within(item, seen)


def _small(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A corner of it, on the CPU."""
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()
    corner = local[tuple(slice(0, _SIZE) for _ in local.shape)]
    return corner.to("cpu", dtype if corner.is_floating_point() and corner.numel() > 1 else None, copy=True)


# -- runs of a toy -----------------------------------------------------------------------------------------------------


def _give_gradients(toy: Optimizer, factor: float, step: int = 0) -> list[Tensor]:
    parameters: list[Tensor] = [p for group in toy.param_groups for p in group["params"]]
    for p in parameters:
        # of one sign, so that no sum of them is near zero, and never quite the same
        p.grad = factor * (1 + 0.5 * torch.sin(torch.arange(p.numel()) + step)).to(p.dtype).reshape(p.shape)
    return parameters


def _moves(factor: float) -> Callable[[Optimizer], Tensor]:
    """The way that the parameters go in the last steps of a run with gradients of this size."""

    def run(toy: Optimizer) -> Tensor:
        for step in range(_STEPS):
            parameters = _give_gradients(toy, factor, step)
            if step == _STEPS - _LAST:
                before = _flat(parameters)
            toy.step()
        return _flat(parameters) - before

    return run


def _flat(parameters: list[Tensor]) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in parameters])


def _steps(toy: Optimizer) -> bool:
    _give_gradients(toy, 1.0)
    toy.step()
    return True


def _steps_with_closure(toy: Optimizer) -> bool:
    def closure() -> Tensor:
        _give_gradients(toy, 1.0)
        return torch.ones((), requires_grad=True)

    closure()
    toy.step(closure)  # type: ignore[arg-type]  # torch wants a float, which is not what users return
    return True


def _steps_with_two_groups(rate: float) -> Callable[[Optimizer], bool]:
    """One step of a toy that has another group at this ``lr``."""

    def run(toy: Optimizer) -> bool:
        group = toy.param_groups[0]
        lr = torch.full_like(group["lr"], rate) if isinstance(group["lr"], Tensor) else rate
        toy.param_groups.append({**group, "params": [copy.deepcopy(group["params"][0])], "lr": lr})
        return _steps(toy)

    return run
