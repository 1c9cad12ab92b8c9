"""torch's SGD and Adam, with the fused kernel wherever it is right (see ``layout``) and never elsewhere.

The choice is made with each group of parameters and looked at again at each step, when the gradients are known. A group
whose memory turns out not to agree falls back to torch's default implementation and stays there.

Where every group may use it, the kernel is called straight, with the lists that the look at the layouts gathered. What
torch does on the way there (a Python loop over the parameters, a grouping of all tensors by device and dtype, a slow
increment of Adam's step counts) costs more than everything that we add: see docs/benchmarks.md.
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
_ONE = torch.ones((), device="cpu")


def _sgd_is_right_in(dtype: torch.dtype) -> bool:
    p = torch.ones(64, dtype=dtype, device="cpu")
    torch._fused_sgd_(
        [p], [torch.ones_like(p)], [],
        weight_decay=0.0, momentum=0.0, lr=0.5, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
    )  # fmt: skip
    return bool((p == 0.5).all())


# torch 2.7's kernel on the CPU leaves parameters in half precision as they are, unless they have very few elements.
SGD_IS_WRONG_IN = frozenset(dtype for dtype in (torch.bfloat16, torch.float16) if not _sgd_is_right_in(dtype))
_STOPPABLE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)

if TYPE_CHECKING:
    _Base = torch.optim.Optimizer
else:
    _Base = object


def withdraw_fused(base: torch.optim.Optimizer) -> None:
    """Settle now, before a step, which groups of ours go on with the fused kernel."""
    if isinstance(base, _FusedWhereRight):
        base.withdraw_fused()


def skips_on_device(base: torch.optim.Optimizer) -> bool:
    """Whether ``found_inf`` stops this base's next step on the device, parameters and state alike.

    It does in torch's fused kernels, which also read a tensor lr there; but SGD's new momentum buffers are left
    uninitialized by a first step that is stopped.
    """
    if not isinstance(base, _STOPPABLE) or not all(group.get("fused") for group in base.param_groups):
        return False
    return not isinstance(base, torch.optim.SGD) or not any(
        _starts_momentum(base, group) for group in base.param_groups
    )


def _starts_momentum(base: torch.optim.SGD, group: Group) -> bool:
    if group["momentum"] == 0 or (isinstance(base, SGD) and group["dampening"] == 0):  # ours starts with zeros
        return False
    return any(p.grad is not None and base.state[p].get("momentum_buffer") is None for p in group["params"])


class Gathered(NamedTuple):
    """What a kernel walks of a group: the parameters that have a gradient, the gradients, and the tensors of state."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    walked: dict[str, list[Tensor]]
    alike: bool  # one device and one dtype


class _FusedWhereRight(_Base):
    """Mixin: decides ``group["fused"]`` where the user left it at None, and withdraws it where it would be wrong."""

    _torch: type[torch.optim.Optimizer]

    def __init__(self, params: Params, **settings: Any) -> None:
        require_rate_settings(settings)
        if "betas" in settings:
            settings["betas"] = tuple(settings["betas"])
        super().__init__(params, **settings)

    def add_param_group(self, param_group: Group) -> None:
        require_rate_settings(self.defaults | param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self._choose(group)
        if group["fused"] and not all(p.is_floating_point() and not p.is_meta for p in group["params"]):
            del self.param_groups[-1]
            raise ValueError(
                "Invalid fused=True. Must be None or False for parameters that are not real floating point or have no "
                "memory (meta device): call to_empty() on the module first."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._choose(group)

    def _choose(self, group: Group) -> None:
        if (
            group["fused"] is None
            and not group["foreach"]
            and not group["differentiable"]
            and not group.get(WITHDRAWN)
            and self._allows_fused(group)
        ):
            group["fused"] = fits(group["params"]) or None

    def _allows_fused(self, group: Group) -> bool:
        return True

    def _is_wrong_for(self, parameter: Tensor) -> bool:
        """Whether this torch's kernel is wrong whatever the layout."""
        return False

    def _keys(self, group: Group) -> tuple[str, ...]:
        """The state, besides parameter and gradient, whose memory the kernel walks under this group's settings."""
        raise NotImplementedError

    # -- looking -------------------------------------------------------------------------------------------------------

    def withdraw_fused(self) -> None:
        """Give up the fused kernel in each group whose gradients or state do not lie as the parameters do.

        ``GradScaler`` decides before the step whether the kernel will unscale, so it has to be known by then.
        """
        for group in self.param_groups:
            self._gather(group)

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
            group["fused"], group[WITHDRAWN] = None, True
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
        gathered = [None if torch.compiler.is_compiling() else self._gather(group) for group in groups]
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


class SGD(_FusedWhereRight, torch.optim.SGD):
    """``torch.optim.SGD`` whose ``fused=None`` means: fused where it is right."""

    _torch = torch.optim.SGD

    def _allows_fused(self, group: Group) -> bool:
        if any(hasattr(p, "placements") for p in group["params"]):  # a DTensor: torch shards fused Adam, not fused SGD
            return False
        # The first step takes g itself for the buffer, later ones momentum * buffer + (1 - dampening) * g. Without
        # dampening a buffer of zeros says the same, and then a first step that is skipped on the device does no harm.
        return bool(group["momentum"] == 0 or group["dampening"] == 0)

    def _is_wrong_for(self, parameter: Tensor) -> bool:
        return parameter.is_cpu and parameter.dtype in SGD_IS_WRONG_IN

    def _keys(self, group: Group) -> tuple[str, ...]:
        return () if group["momentum"] == 0 else ("momentum_buffer",)

    def _init_group(
        self, group: Group, params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None]
    ) -> bool:
        gathered = self._gather(group)
        if gathered is not None and gathered.walked and group["dampening"] != 0:
            some = 0 < len(gathered.walked["momentum_buffer"]) < len(gathered.params)
            if some:  # torch's kernel takes either all buffers or none
                group["fused"], group[WITHDRAWN] = None, True
        has_sparse_grad = super()._init_group(group, params, grads, buffers)  # type: ignore[no-untyped-call]
        if group["fused"] and group["momentum"] != 0 and group["dampening"] == 0:
            # torch leaves a new buffer uninitialized when found_inf skips its first step (GradScaler's first overflow)
            pairs = zip(params, buffers, strict=True)
            buffers[:] = [torch.zeros_like(p) if buffer is None else buffer for p, buffer in pairs]
        return bool(has_sparse_grad)

    def _launch(self, group: Group, gathered: Gathered) -> None:
        torch._fused_sgd_(
            gathered.params,
            gathered.grads,
            gathered.walked.get("momentum_buffer", []),
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
            **self._amp(gathered),
        )


class Adam(_FusedWhereRight, torch.optim.Adam):
    """``torch.optim.Adam`` whose ``fused=None`` means: fused where it is right."""

    _torch = torch.optim.Adam

    def _keys(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _init_group(self, group: Group, *lists: Any) -> bool:
        self._gather(group)
        return bool(super()._init_group(group, *lists))  # type: ignore[no-untyped-call]

    def _is_ready(self, group: Group, gathered: Gathered) -> bool:
        return super()._is_ready(group, gathered) and not any(isinstance(beta, Tensor) for beta in group["betas"])

    def _launch(self, group: Group, gathered: Gathered) -> None:
        on_cpu = gathered.params[0].is_cpu
        if not on_cpu:
            _require_capturable(self)
        steps = [state["step"] for state in gathered.states]
        # a tensor, since a number would be made into one for each of the steps
        torch._foreach_add_(steps, _ONE if on_cpu else 1)
        amp = self._amp(gathered)
        beta1, beta2 = group["betas"]
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            gathered.params,
            gathered.grads,
            gathered.walked["exp_avg"],
            gathered.walked["exp_avg_sq"],
            gathered.walked.get("max_exp_avg_sq", []),
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            **amp,
        )
        if amp["found_inf"] is not None:  # the kernel skipped: the step did not happen
            torch._foreach_sub_(steps, [amp["found_inf"]] * len(steps))


def _require_capturable(base: Any) -> None:
    """Raise if a CUDA graph is being captured without ``capturable=True``, as torch's own step begins with."""
    check = getattr(base, "_accelerator_graph_capture_health_check", None)  # its name in newer torch
    (check or base._cuda_graph_capture_health_check)()
