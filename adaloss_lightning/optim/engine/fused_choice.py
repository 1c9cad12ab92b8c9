"""The fused kernel wherever it is right (see ``layout``), and never elsewhere.

The choice is made with each group of parameters, again in the first step, when lazy parameters and those on the meta
device have their memory, and looked at in each step, when the gradients are known. A group whose memory turns out not
to agree falls back to torch's default implementation and stays there.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from adaloss_lightning.optim.engine.base import run_step
from adaloss_lightning.optim.engine.layout import agree, are_alike, fits
from adaloss_lightning.optim.engine.wrapper import Group
from adaloss_lightning.optim.validation import require_rate_settings

Params = Iterable[Tensor] | Iterable[Group] | Iterable[tuple[str, Tensor]]
WITHDRAWN = "adaloss_fused_withdrawn"  # saved with the group: a resumed run must not go back to the fused kernel

if TYPE_CHECKING:
    _Base = torch.optim.Optimizer
else:
    _Base = object


def withdraw_fused(base: torch.optim.Optimizer) -> None:
    """Settle now, before a step, which groups of ours go on with the fused kernel."""
    if isinstance(base, FusedWhereRight):
        base.withdraw_fused()


class Gathered(NamedTuple):
    """What a kernel walks of a group: the parameters that have a gradient, the gradients, and the tensors of state."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    walked: dict[str, list[Tensor]]
    alike: bool  # one device and one dtype


class FusedWhereRight(_Base):
    """Mixin: decides ``group["fused"]`` where the user left it at None, and withdraws it where it would be wrong."""

    _torch: type[torch.optim.Optimizer]
    _is_settled = False  # whether a step has looked at what was open before

    def __init__(self, params: Params, **settings: Any) -> None:
        require_rate_settings(settings)
        if "betas" in settings:
            settings["betas"] = tuple(settings["betas"])
        super().__init__(params, **settings)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group with settings that are in their bounds, and choose its implementation."""
        require_rate_settings(self.defaults | param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["fused"] = self._chosen(group)
        self._is_settled = False
        if group["fused"] and not all(p.is_floating_point() and not p.is_meta for p in group["params"]):
            del self.param_groups[-1]
            raise ValueError(
                "Invalid fused=True. Must be None or False for parameters that are not real floating point or have no "
                "memory (meta device): call to_empty() on the module first."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._is_settled = False
        for group in self.param_groups:
            group["fused"] = self._chosen(group)
            self._place_state(group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was saved, with the implementation that is right for the parameters here.

        What this optimizer was told goes before what was saved. The choice is made first, since torch puts the loaded
        state where the implementation wants it.
        """
        groups = list(state_dict["param_groups"])
        for index, (own, saved) in enumerate(zip(self.param_groups, groups, strict=False)):  # torch compares the counts
            loaded = {**own, **saved, **self._told(own, saved), "params": own["params"]}
            if WITHDRAWN not in saved:
                loaded.pop(WITHDRAWN, None)
            groups[index] = {**saved, "fused": self._chosen(loaded), "foreach": loaded["foreach"]}
        super().load_state_dict({**state_dict, "param_groups": groups})

    def _told(self, own: Group, saved: Group) -> Group:
        """The implementation that was asked for here; else the one in the checkpoint."""
        fused, foreach = own["fused"], own["foreach"]
        if fused and self.defaults["fused"] is None:
            fused = None  # our choice, for the parameters as they were
        if fused is None and foreach is None:
            # a True may be a choice too, for other parameters
            fused, foreach = saved.get("fused") and None, saved.get("foreach")
        return {"fused": fused, "foreach": foreach}

    def _chosen(self, group: Group) -> bool | None:
        """What ``group["fused"]`` is to be."""
        told: bool | None = group["fused"]
        if group.get(WITHDRAWN):
            return told and None
        if told is not None or group["foreach"] is not None or group["differentiable"]:
            return told
        return (self._allows_fused(group) and fits(group["params"])) or None

    def _withdraw(self, group: Group) -> None:
        group["fused"], group[WITHDRAWN] = None, True
        self._place_state(group)

    def _allows_fused(self, group: Group) -> bool:
        return True

    def _is_wrong_for(self, parameter: Tensor) -> bool:
        """Whether this torch's kernel is wrong whatever the layout."""
        return False

    def _keys(self, group: Group) -> tuple[str, ...]:
        """The state, besides parameter and gradient, whose memory the kernel walks under this group's settings."""
        raise NotImplementedError

    def _place_state(self, group: Group) -> None:
        """Put state that lies elsewhere than the parameters where the group's implementation wants it."""

    # -- looking -------------------------------------------------------------------------------------------------------

    def withdraw_fused(self) -> None:
        """Give up the fused kernel in each group whose gradients or state do not lie as the parameters do.

        ``GradScaler`` decides before the step whether the kernel will unscale, so it has to be known by then.
        """
        self._gather_all()

    def _gather_all(self) -> list[Gathered | None]:
        if not torch.compiler.is_compiling() and not self._is_settled:
            for group in self.param_groups:
                if group["fused"] is None and self._chosen(group):
                    group["fused"] = True
                    self._place_state(group)
            self._is_settled = True
        return [self._gather(group) for group in self.param_groups]

    def _gather(self, group: Group) -> Gathered | None:
        """What the kernel is to walk; None for a group that does not use it, or gives it up now."""
        if not group["fused"]:
            return None
        params: list[Tensor] = group["params"]
        grads: list[Any] = [p.grad for p in params]
        try:
            right = agree(params, grads)
        except TypeError:  # parameters without a gradient
            params = [p for p in params if p.grad is not None]
            grads = [p.grad for p in params]
            right = agree(params, grads)
        right = right and not (params and self._is_wrong_for(params[0]))
        alike = are_alike(params, grads)
        right = right and (alike or all(p.dtype == grad.dtype for p, grad in zip(params, grads, strict=True)))
        keys = self._keys(group)
        states = list(map(self.state.__getitem__, params)) if right and keys else []
        walked = {key: [state[key] for state in states if state.get(key) is not None] for key in keys}
        for key, values in walked.items():
            owners = params if len(values) == len(params) else [p for p in params if self.state[p].get(key) is not None]
            right = right and (not values or agree(owners, values))
        if not right:
            self._withdraw(group)
            return None
        return Gathered(params, grads, states, walked, alike)

    # -- stepping ------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of torch's optimizer, right for whatever layouts the parameters have."""
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        groups = self.param_groups
        gathered = [None for _ in groups] if torch.compiler.is_compiling() else self._gather_all()
        if all(
            found is not None and self._is_ready(group, found) for group, found in zip(groups, gathered, strict=True)
        ):
            with torch.no_grad():
                for group, found in zip(groups, gathered, strict=True):
                    if found is not None and found.params:
                        self._launch(group, found)
        else:
            run_step(self, self._torch)
        return returned

    def _is_ready(self, group: Group, gathered: Gathered) -> bool:
        """Whether torch's own step has nothing left to do before the kernel: no state to make, nothing to sort."""
        count = len(gathered.params)
        return gathered.alike and all(len(values) == count for values in gathered.walked.values())

    def _launch(self, group: Group, gathered: Gathered) -> None:
        """Call the kernel, as torch's own step would."""
        raise NotImplementedError

    def _amp(self, gathered: Gathered) -> dict[str, Tensor | None]:
        """What ``GradScaler`` has handed over, where the parameters are."""
        lent = {name: self.__dict__.get(name) for name in ("grad_scale", "found_inf")}
        device = gathered.params[0].device
        return {name: None if x is None else x.to(device, non_blocking=True) for name, x in lent.items()}
