"""An optimizer around another one, with the same parameter groups and the same state."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from adaloss_lightning.validation import plain_number

Group = dict[str, Any]

# What a parameter group carries for us. The prefix keeps clear of the base's own keys: RMSprop and ASGD own an "alpha".
PREFIX = "adaloss_"


def lightly_hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """What torch puts around every optimizer's ``step``, for the profiler and for step hooks, where there are any.

    Opening a profiler's record takes 10 microseconds also when no profiler runs, and 0.2 ms beside a kernel that has
    just swept the caches: more than all that is added to a step here.
    """
    hooked = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def run(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        is_watched = (
            torch.compiler.is_compiling()  # first: a compiler cannot trace the next question
            or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        )
        return hooked(self, *args, **kwargs) if is_watched else step(self, *args, **kwargs)

    run.hooked = True  # type: ignore[attr-defined]  # torch leaves it alone then
    return run


class OptimizerWrapper(Optimizer):
    """Shares ``param_groups``, ``state``, step hooks and ``state_dict`` with the optimizer it wraps.

    What it adds to a group has a name with :data:`PREFIX`, lives in the group, and is saved with it: an entry of
    ``state[p]`` would be cast to the parameter's dtype on load.

    Args:
        base: The optimizer to wrap.
        settings: Default settings of a parameter group.
        **attributes: What else belongs to the wrapper and is copied and pickled with it.
    """

    base: Optimizer
    _evolving: tuple[str, ...] = ()  # what a group holds of ours that changes as it trains

    def __init__(self, base: Optimizer, settings: Group, **attributes: Any) -> None:
        fresh = [self._without_earlier(group, settings) for group in base.param_groups]
        for group in fresh:
            self._validate({**settings, **group})
        for group, clean in zip(base.param_groups, fresh, strict=True):
            for key in group.keys() - clean.keys():
                del group[key]
        self._attributes = tuple(attributes)
        # torch's own way to build an optimizer around groups that exist (unpickling): it makes the hooks and patches
        # step, and does not start new groups and a new state as Optimizer.__init__ would.
        own = {key: plain_number(value) for key, value in settings.items()}
        self.__setstate__({"base": base, "defaults": {**base.defaults, **own}, **attributes})

    def _without_earlier(self, group: Group, settings: Group) -> Group:
        """A group without what an earlier wrapper has left in it, its settings too: those given now are to hold."""
        if not any(key in group for key in self._evolving):
            return group
        return {key: value for key, value in group.items() if key not in settings and key not in self._evolving}

    def __getstate__(self) -> Group:
        return {name: getattr(self, name) for name in ("base", "defaults", "_attributes", *self._attributes)}

    def __setstate__(self, state: Group) -> None:
        super().__setstate__(state)
        # One set of step hooks: those registered on the base before it was wrapped run too, and each runs once.
        self._optimizer_step_pre_hooks = self.base._optimizer_step_pre_hooks
        self._optimizer_step_post_hooks = self.base._optimizer_step_post_hooks
        for group in self.param_groups:
            self._adopt(group)

    @property
    def param_groups(self) -> list[Group]:
        """The parameter groups of the base."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[Group]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The per-parameter state of the base."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, also in the middle of a training: what is ours starts at its own start.

        Raises:
            ValueError: If the group brings a setting that is out of its bounds. Nothing is added then.
            TypeError: If it is no dictionary.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"Invalid param_group of type {type(param_group).__name__}. Must be a dict with 'params'.")
        self._validate({**self.defaults, **param_group})
        # a group made from a copy of another one brings that one's state along
        self.base.add_param_group({key: value for key, value in param_group.items() if key not in self._evolving})
        self._adopt(self.param_groups[-1])

    def _validate(self, settings: Group) -> None:
        """Raise ``ValueError`` for a setting that is out of its bounds."""

    def _adopt(self, group: Group) -> None:
        """Give a group what it lacks of ours, on the device of its parameters."""
        for key, value in self._own_defaults().items():
            group[key] = plain_number(group.get(key, value))

    def _own_defaults(self) -> Group:
        return {key: value for key, value in self.defaults.items() if key.startswith(PREFIX)}

    def state_dict(self) -> Group:
        """The base's ``state_dict``, its groups with our settings and state; later steps do not change ours."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.base.state_dict()
        for group in state_dict["param_groups"]:
            group.update({key: _snapshot(value) for key, value in group.items() if key.startswith(PREFIX)})
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: Group) -> None:
        """Go on where ``state_dict`` was saved; with one of the bare base, what is ours starts at its start."""
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        settings = [{**self._own_defaults(), **group} for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        for group, own in zip(self.param_groups, settings, strict=True):
            for key in self._own_defaults():
                group.setdefault(key, own[key])
            self._adopt(group)
        for done in self._optimizer_load_state_dict_post_hooks.values():
            done(self)


def _snapshot(value: Any) -> Any:
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def device_of(group: Group) -> torch.device:
    """Where the parameters of a group are."""
    parameters: list[Tensor] = group["params"]
    return parameters[0].device if parameters else torch.device("cpu")
