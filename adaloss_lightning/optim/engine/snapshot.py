"""Everything that training steps may change, to be put back: modules, an optimizer, and random numbers."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.loss import Inbox
from adaloss_lightning.optim.engine.traits import inner_optimizers
from adaloss_lightning.optim.method import Method

Restore = Callable[[], Any]
_OF_MODULES = ("_parameters", "_buffers", "_modules")


class Snapshot:
    """What a module, an optimizer and the generators of random numbers hold now. :meth:`restore` puts it back.

    Kept are parameters, buffers and gradients, the optimizer's groups and state, and of every module and optimizer the
    attributes that are numbers, text, tensors, or lists, tuples, sets and dictionaries of them. Tensors and containers
    stay the same objects. Any other object that an attribute names is put back, not what it holds.

    Args:
        module: With all modules in it.
        optimizer: With all optimizers in it; None for none.
        generators: Beside the global ones of torch, NumPy and Python.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer | None = None, generators: Iterable[torch.Generator] = ()
    ) -> None:
        kept: dict[int, Restore] = {}
        self._restores: list[Restore] = [_random_numbers(list(generators))]
        for tensor in (*module.parameters(), *module.buffers()):
            self._restores.append(_keep(tensor, kept))
            kept[id(tensor)] = _as_it_is(tensor)  # put back once, however many containers hold it
        self._restores += [_gradient(p) for p in module.parameters()]
        optimizers = [] if optimizer is None else [optimizer, *inner_optimizers(optimizer)]
        for owner in (*module.modules(), *optimizers):
            self._restores.append(_attributes(owner, kept))

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for restore in self._restores:
                restore()


def _attributes(owner: Any, kept: dict[int, Restore]) -> Restore:
    """Put back the attributes of a module, an optimizer, or a part of ours in one; new ones go."""
    values = {name: _keep(value, kept) for name, value in vars(owner).items() if name not in _OF_MODULES}
    containers = [dict(vars(owner)[name]) for name in _OF_MODULES if name in vars(owner)]

    def restore() -> None:
        attributes = vars(owner)
        for name in attributes.keys() - values.keys() - set(_OF_MODULES):
            del attributes[name]
        for name, value in values.items():
            attributes[name] = value()
        for name, container in zip(_OF_MODULES, containers, strict=False):
            attributes[name].clear()
            attributes[name].update(container)

    return restore


def _keep(value: Any, kept: dict[int, Restore]) -> Restore:
    """What gives back the value with what it holds now; each object is kept once."""
    if id(value) not in kept:
        kept[id(value)] = _as_it_is(value)  # also for a container that holds itself
        kept[id(value)] = _keep_new(value, kept)
    return kept[id(value)]


def _keep_new(value: Any, kept: dict[int, Restore]) -> Restore:
    if isinstance(value, Tensor) and not value.is_inference():  # no step writes into an inference tensor
        content = value.detach().clone()
        return lambda: _done(value, [lambda: value.detach().copy_(content)])
    if isinstance(value, (Method, Inbox)):
        return partial(_done, value, [_attributes(value, kept)])
    if isinstance(value, dict):
        pairs = [(key, _keep(item, kept)) for key, item in value.items()]
        return lambda: _filled(value, value.update, {key: item() for key, item in pairs})
    if isinstance(value, (list, deque)):
        items = [_keep(item, kept) for item in value]
        return lambda: _filled(value, value.extend, [item() for item in items])
    if isinstance(value, set):
        members = set(value)
        return lambda: _filled(value, value.update, members)
    if type(value) is tuple:
        parts = [_keep(item, kept) for item in value]
        return partial(_done, value, parts)
    return _as_it_is(value)


def _as_it_is(value: Any) -> Restore:
    return lambda: value


def _done(value: Any, restores: Iterable[Restore]) -> Any:
    for restore in restores:
        restore()
    return value


def _filled(container: Any, fill: Callable[[Any], None], content: Any) -> Any:
    container.clear()
    fill(content)
    return container


def _gradient(parameter: Tensor) -> Restore:
    gradient = parameter.grad
    content = None if gradient is None else gradient.detach().clone()

    def restore() -> None:
        parameter.grad = gradient
        if gradient is not None and content is not None:
            gradient.detach().copy_(content)

    return restore


def _random_numbers(generators: list[torch.Generator]) -> Restore:
    """Put back the global generators of torch on all devices, of NumPy where it is imported, and of Python."""
    on_cpu, states = torch.get_rng_state(), [generator.get_state() for generator in generators]
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    on_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    numpy: Any = sys.modules.get("numpy")
    of_numpy = None if numpy is None else numpy.random.get_state()
    of_python = random.getstate()

    def restore() -> None:
        torch.set_rng_state(on_cpu)
        if on_cuda:
            torch.cuda.set_rng_state_all(on_cuda)
        if on_mps is not None:
            torch.mps.set_rng_state(on_mps)
        if of_numpy is not None:
            numpy.random.set_state(of_numpy)
        random.setstate(of_python)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    return restore
