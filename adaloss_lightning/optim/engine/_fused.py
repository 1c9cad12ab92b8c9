"""torch's SGD and Adam, with the fused kernel wherever it is right.

Where every group may use it, the kernel is called straight, with the lists that the look at the layouts gathered. What
torch does on the way there (a Python loop over the parameters, a grouping of all tensors by device and dtype, a slow
increment of Adam's step counts) costs more than everything that we add: see docs/benchmarks.md.

The name of the module is private so that jsonargparse does not offer its classes: in a LightningCLI `Adam` is torch's.
"""

from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.optim.engine.fused_choice import FusedWhereRight, Gathered
from adaloss_lightning.optim.engine.wrapper import Group

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
_READS_IN_ITS_LOOP = (torch.optim.RMSprop, torch.optim.Adadelta)  # the lr of a capturable step with foreach=False


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


def reads_tensor_rates(base: torch.optim.Optimizer) -> bool:
    """Whether this base's kernels read a tensor lr on the host, most of them once for each parameter.

    torch's do, or refuse it, unless they are fused or capturable. What another package's do is its own affair.
    """
    kinds = [kind for kind in type(base).__mro__ if kind.__module__.startswith("torch.optim.")]
    if kinds == [torch.optim.Optimizer]:
        return False
    loops = isinstance(base, _READS_IN_ITS_LOOP)
    return not all(
        group.get("fused") or (group.get("capturable") and not (loops and group.get("foreach") is False))
        for group in base.param_groups
    )


def _starts_momentum(base: torch.optim.SGD, group: Group) -> bool:
    if group["momentum"] == 0 or (isinstance(base, SGD) and group["dampening"] == 0):  # ours starts with zeros
        return False
    return any(p.grad is not None and base.state[p].get("momentum_buffer") is None for p in group["params"])


def _is_sharded(parameter: Tensor) -> bool:
    """Whether it is a DTensor: torch shards fused Adam, not fused SGD."""
    return hasattr(parameter, "placements")


class SGD(FusedWhereRight, torch.optim.SGD):
    """``torch.optim.SGD`` whose ``fused=None`` means: fused where it is right."""

    _torch = torch.optim.SGD

    def _allows_fused(self, group: Group) -> bool:
        if any(map(_is_sharded, group["params"])):
            return False
        # The first step takes g itself for the buffer, later ones momentum * buffer + (1 - dampening) * g. Without
        # dampening a buffer of zeros says the same, and then a first step that is skipped on the device does no harm.
        return bool(group["momentum"] == 0 or group["dampening"] == 0)

    def _is_wrong_for(self, parameter: Tensor) -> bool:
        return _is_sharded(parameter) or (parameter.is_cpu and parameter.dtype in SGD_IS_WRONG_IN)

    def _keys(self, group: Group) -> tuple[str, ...]:
        return () if group["momentum"] == 0 else ("momentum_buffer",)

    def _init_group(
        self, group: Group, params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None]
    ) -> bool:
        gathered = self._gather(group)
        if gathered is not None and gathered.walked and group["dampening"] != 0:
            some = 0 < len(gathered.walked["momentum_buffer"]) < len(gathered.params)
            if some:  # torch's kernel takes either all buffers or none
                self._withdraw(group)
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


class Adam(FusedWhereRight, torch.optim.Adam):
    """``torch.optim.Adam`` whose ``fused=None`` means: fused where it is right."""

    _torch = torch.optim.Adam

    def _keys(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _place_state(self, group: Group) -> None:
        """The step counts: beside the parameters for a kernel on the device, else on the host, which reads them."""
        on_device = group["fused"] or group["capturable"]
        for p in group["params"]:
            step = self.state[p].get("step") if p in self.state else None
            if isinstance(step, Tensor):
                self.state[p]["step"] = step.to(p.device, torch.float32) if on_device else step.cpu()

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
