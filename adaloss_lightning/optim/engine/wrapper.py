"""An optimizer around another one, with the same parameter groups and the same state."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from adaloss_lightning.optim.validation import plain_number

Group = dict[str, Any]

# What a parameter group carries for us. The prefix keeps clear of the base's own keys: RMSprop and ASGD own an "alpha".
PREFIX = "adaloss_"
GROUPS = PREFIX + "groups"  # in a state_dict that is laid out in the base's own way


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

    def __init__(self, base: Optimizer, settings: Group, **attributes: Any) -> None:
        fresh = [self._without_earlier(group, settings) for group in base.param_groups]
        complete = [{**settings, **group} for group in fresh]
        for group in complete:
            self._validate(group)
        self._validate_together(complete)
        for group, clean in zip(base.param_groups, fresh, strict=True):
            for key in group.keys() - clean.keys():
                del group[key]
        self._attributes = tuple(attributes)
        # torch's own way to build an optimizer around groups that exist (unpickling): it makes the hooks and patches
        # step, and does not start new groups and a new state as Optimizer.__init__ would.
        own = {key: plain_number(value) for key, value in settings.items()}
        self.__setstate__({"base": base, "defaults": {**base.defaults, **own}, **attributes})

    @property
    def _evolving(self) -> tuple[str, ...]:
        """Keys of what a group holds of ours that changes with the steps."""
        return ()

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

    def __getattr__(self, name: str) -> Any:
        """What the base has and a torch optimizer has not: ``train``, ``eval``, ``consolidate_state_dict``, ..."""
        base = self.__dict__.get("base")  # not there yet while unpickling
        if base is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(base, name)

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

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, in the base's own way if it has one."""
        if set_to_none:
            self.base.zero_grad()  # some know no other
        else:
            self.base.zero_grad(set_to_none=False)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, also in the middle of a run: what is ours starts at its own start.

        Raises:
            ValueError: If the group brings a setting that is out of its bounds. Nothing is added then.
            TypeError: If it is no dictionary.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"Invalid param_group of type {type(param_group).__name__}. Must be a dict with 'params'.")
        complete = {**self.defaults, **param_group}
        self._validate(complete)
        self._validate_together([*self.param_groups, complete])
        # a group made from a copy of another one brings that one's state along
        self.base.add_param_group({key: value for key, value in param_group.items() if key not in self._evolving})
        self._adopt(self.param_groups[-1])

    def _validate(self, settings: Group) -> None:
        """Raise ``ValueError`` for a setting that is out of its bounds."""

    def _validate_together(self, groups: Sequence[Group]) -> None:
        """Raise ``ValueError`` for settings that do not go together, each of which is right."""

    def _adopt(self, group: Group) -> None:
        """Give a group what it lacks of ours, on the device of its parameters."""
        for key, value in self._own_defaults().items():
            group[key] = plain_number(group.get(key, value))

    def _own_defaults(self) -> Group:
        return {key: value for key, value in self.defaults.items() if key.startswith(PREFIX)}

    def _own(self, group: Group) -> Group:
        """What a group holds of ours, none of it to change with later steps."""
        return {key: _snapshot(group[key]) for key in (*self._own_defaults(), *self._evolving) if key in group}

    def state_dict(self) -> Group:
        """The base's ``state_dict`` with our settings and state; later steps do not change ours.

        Ours are in the groups, or under :data:`GROUPS` where the base's is not laid out as torch's (``Lookahead``).
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        ours = [self._own(group) for group in self.param_groups]
        with self._without_ours():
            state_dict = self.base.state_dict()
        if _has_groups(state_dict, len(ours)):
            groups = zip(state_dict["param_groups"], ours, strict=True)
            state_dict = {**state_dict, "param_groups": [{**group, **own} for group, own in groups]}
        else:
            state_dict = {**state_dict, GROUPS: ours}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    @contextmanager
    def _without_ours(self) -> Iterator[None]:
        """Take ours out of the groups: wherever in a nested ``state_dict`` they ended up, they would go on changing."""
        groups = self.param_groups
        keys = (*self._own_defaults(), *self._evolving)
        taken = [{key: group.pop(key) for key in keys if key in group} for group in groups]
        try:
            yield
        finally:
            for group, own in zip(groups, taken, strict=True):
                group.update(own)

    def load_state_dict(self, state_dict: Group) -> None:
        """Go on where ``state_dict`` was saved; with one of the bare base, what is ours starts at its start."""
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed.copy()
        groups, defaults = self.param_groups, self._own_defaults()
        settings = [{key: group.get(key, value) for key, value in defaults.items()} for group in groups]
        if _has_groups(state_dict, len(groups)):
            saved = [self._own(group) for group in state_dict["param_groups"]]
            pairs = zip(state_dict["param_groups"], saved, strict=True)
            bare = [{key: value for key, value in group.items() if key not in own} for group, own in pairs]
            state_dict["param_groups"] = bare
        else:
            saved = [self._own(group) for group in state_dict.pop(GROUPS, [{}] * len(groups))]
        if len(saved) != len(groups):
            raise ValueError(f"Invalid state_dict with {len(saved)} parameter groups. Must have {len(groups)}.")
        self.base.load_state_dict(state_dict)
        for group, current, own in zip(self.param_groups, settings, saved, strict=True):
            for key in self._evolving:
                group.pop(key, None)
            group.update(current | own)
            self._adopt(group)
        for done in self._optimizer_load_state_dict_post_hooks.values():
            done(self)


def _has_groups(state_dict: Group, count: int) -> bool:
    """Whether a ``state_dict`` is laid out as torch's, with this many groups."""
    groups = state_dict.get("param_groups")
    return isinstance(groups, list) and len(groups) == count


def _snapshot(value: Any) -> Any:
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def device_of(group: Group) -> torch.device:
    """Where the parameters of a group are."""
    parameters: list[Tensor] = group["params"]
    return parameters[0].device if parameters else torch.device("cpu")
