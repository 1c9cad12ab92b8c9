"""The kernel called straight: the very same numbers as torch's own fused step, in every setting it has."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter

from adaloss_lightning.optim.engine._fused import SGD, SGD_IS_WRONG_IN, Adam

SETTINGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sgd": (SGD, torch.optim.SGD, {}),
    "sgd weight decay": (SGD, torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd maximize": (SGD, torch.optim.SGD, {"maximize": True}),
    "sgd momentum": (SGD, torch.optim.SGD, {"momentum": 0.9}),
    "sgd nesterov": (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd dampening": (SGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "fused": True}),
    "adam": (Adam, torch.optim.Adam, {}),
    "adam weight decay": (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    "adam decoupled": (Adam, torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adam amsgrad": (Adam, torch.optim.Adam, {"amsgrad": True}),
    "adam maximize": (Adam, torch.optim.Adam, {"maximize": True, "betas": (0.5, 0.7), "eps": 1e-3}),
    "adam tensor betas": (
        Adam,
        torch.optim.Adam,
        {"betas": (torch.tensor(0.5), torch.tensor(0.7)), "capturable": True},
    ),
}
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def train(make: Any, options: dict[str, Any], dtypes: list[torch.dtype], amp: bool) -> tuple[Any, list[torch.Tensor]]:
    """Six steps of two groups, one with its own lr; a parameter misses a gradient; one step overflows."""
    generator = torch.Generator().manual_seed(0)

    def values(dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(3, 5, generator=generator, dtype=torch.float64).to(dtype)

    params = [Parameter(values(dtype)) for dtype in dtypes for _ in range(2)]
    optimizer = make([{"params": params[::2]}, {"params": params[1::2], "lr": 0.03}], lr=0.1, **options)
    for step in range(6):
        for index, p in enumerate(params):
            p.grad = None if step == 3 and index == 1 else values(p.dtype)
        if amp:
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(float(step == 2))
        optimizer.step()
    return optimizer, params


@pytest.mark.parametrize("amp", [False, True], ids=["", "amp"])
@pytest.mark.parametrize("dtypes", [*([d] for d in DTYPES), DTYPES], ids=lambda d: "+".join(str(x)[6:] for x in d))
@pytest.mark.parametrize("name", SETTINGS)
def test_the_launch_is_torchs_own_fused_step(name: str, dtypes: list[torch.dtype], amp: bool) -> None:
    ours, stock, options = SETTINGS[name]
    if amp and name == "sgd dampening":
        pytest.skip("torch leaves new buffers uninitialized after a skipped first step")
    if name.startswith("sgd") and not SGD_IS_WRONG_IN.isdisjoint(dtypes):
        pytest.skip("this torch's kernel does nothing in half precision, and ours is withdrawn there")
    mine, params = train(ours, options, dtypes, amp)
    theirs, expected = train(stock, {**options, "fused": True}, dtypes, amp)
    assert all(group["fused"] for group in mine.param_groups)
    assert all(torch.equal(p, q) for p, q in zip(params, expected, strict=True))
    for p, q in zip(params, expected, strict=True):
        assert mine.state[p].keys() == theirs.state[q].keys()
        assert all(torch.equal(mine.state[p][key], theirs.state[q][key]) for key in theirs.state[q])


@pytest.mark.parametrize("ours", [SGD, Adam])
def test_one_group_without_the_kernel_sends_all_through_torchs_step(ours: Any) -> None:
    p, q, r, t = (Parameter(torch.ones(4, 4)) for _ in range(4))
    optimizer = ours([{"params": [p]}, {"params": [q]}], lr=0.5)
    expected = ours([{"params": [r]}, {"params": [t]}], lr=0.5, fused=False, foreach=False)
    for step in range(4):
        p.grad = r.grad = torch.arange(16.0).reshape(4, 4)
        q.grad = t.grad = p.grad if step < 2 else p.grad.t()
        optimizer.step()
        expected.step()
    assert [bool(group["fused"]) for group in optimizer.param_groups] == [True, False]
    torch.testing.assert_close([p, q], [r, t])


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no gradients of another dtype")
def test_one_gradient_of_another_dtype_withdraws_the_kernel() -> None:
    """Stock torch moves the parameters before it and then raises."""
    p, q = Parameter(torch.ones(4)), Parameter(torch.ones(4))
    optimizer = SGD([p, q], lr=0.5)
    q.grad_dtype = torch.bfloat16
    p.grad, q.grad = torch.ones(4), torch.ones(4, dtype=torch.bfloat16)
    optimizer.step()
    assert torch.equal(torch.stack([p, q]), torch.full((2, 4), 0.5))
