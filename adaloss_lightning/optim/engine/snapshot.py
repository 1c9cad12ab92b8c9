"""Everything that training steps may change, to be put back: modules, an optimizer, and random numbers."""

import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.loss import Inbox
from adaloss_lightning.optim.engine.random_numbers import Restore, kept_generator, kept_generators
from adaloss_lightning.optim.engine.traits import inner_optimizers
from adaloss_lightning.optim.method import Method

_OF_MODULES = ("_parameters", "_buffers", "_modules")


class Snapshot:
    """What a module, an optimizer and the generators of random numbers hold now. :meth:`restore` puts it back.

    Kept are parameters, buffers and gradients, the optimizer's groups and state, and of every module and optimizer the
    attributes that are numbers, text, tensors, arrays, generators of random numbers, modules, or lists, tuples, sets
    and dictionaries of them. Tensors and containers stay the same objects. Any other object that an attribute names is
    put back, not what it holds.

    Args:
        module: With all modules in it.
        optimizer: With all optimizers in it; None for none.
        drawn_from: What else draws random numbers, such as a loader: the generators in it are kept.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer | None = None, drawn_from: Iterable[Any] = ()) -> None:
        kept: dict[int, Restore] = {}
        self._restores: list[Restore] = [kept_generators(drawn_from), _keep(module, kept)]
        optimizers = [] if optimizer is None else [optimizer, *inner_optimizers(optimizer)]
        self._restores += [_attributes(owner, kept) for owner in optimizers]

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for restore in self._restores:
                restore()


def _module(module: nn.Module, kept: dict[int, Restore]) -> list[Restore]:
    modules = list(module.modules())
    kept |= {id(one): _as_it_is(one) for one in modules}
    restores = []
    for tensor in (*module.parameters(), *module.buffers()):
        restores.append(_keep(tensor, kept))
        kept[id(tensor)] = _as_it_is(tensor)  # put back once, however many containers hold it
    restores += [_gradient(p) for p in module.parameters()]
    return restores + [_attributes(one, kept) for one in modules]


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
        content = _memory(value).clone()
        return lambda: _done(value, [lambda: _memory(value).copy_(content)])
    if isinstance(value, nn.Module):
        return partial(_done, value, _module(value, kept))
    if isinstance(value, (Method, Inbox)):
        return partial(_done, value, [_attributes(value, kept)])
    if (generator := kept_generator(value)) is not None:
        return partial(_done, value, [generator])
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.flags.writeable:
        return partial(_done, value, [partial(numpy.copyto, value, value.copy())])
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


def _memory(tensor: Tensor) -> Tensor:
    """A tensor without the dimensions in which an expanded one repeats its memory, which nothing can be copied into."""
    own = tensor.detach()
    if own.layout is torch.strided:
        for dim, stride in enumerate(own.stride()):
            own = own.narrow(dim, 0, 1) if stride == 0 and own.shape[dim] > 1 else own
    return own


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
