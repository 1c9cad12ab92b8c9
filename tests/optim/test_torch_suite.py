"""The checks of PyTorch's own optimizer suite (``test/test_optim.py``), with its own table of inputs."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInput, optim_db

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt
from adaloss_lightning.optim.engine._fused import SGD_IS_WRONG_IN
from adaloss_lightning.optim.recurrence import reference_step

from . import methods

INFOS = {info.optim_cls.__name__: info for info in optim_db}
OURS: dict[type[Optimizer], Any] = {torch.optim.SGD: AdaLoss, torch.optim.Adam: AdamLoss}
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "chosen": {},
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
# torch's own fused SGD fails where a gradient comes late, and the others go the ways of those that stay
LEFT_OUT = {
    "AdaLoss dampening", "LossAdaptive(SGD fused)", "LossAdaptive(AdamW fused)", "LossAdaptive(Adagrad fused)",
    "LossAdaptive(RAdam) adamloss",
}  # fmt: skip
METHODS = {name: method for name, method in methods.METHODS.items() if name not in LEFT_OUT}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
both = pytest.mark.parametrize("method", [AdaLoss, AdamLoss])

# float64, for-loop against fused or foreach: a few roundings in another order
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def inputs() -> list[Any]:
    table = [(cls, item) for cls in OURS for item in INFOS[cls.__name__].optim_inputs_func(device="cpu")]
    # what torch's own table tests on accelerators only
    extra: list[tuple[type[Optimizer], dict[str, Any], str]] = [
        (torch.optim.Adam, {"lr": torch.tensor(0.01)}, "Tensor lr"),
        (torch.optim.Adam, {"lr": torch.tensor([0.01])}, "Tensor lr of shape [1]"),
        (torch.optim.SGD, {"lr": torch.tensor([0.01]), "momentum": 0.9}, "Tensor lr of shape [1]"),
        (torch.optim.Adam, {"betas": tuple(torch.tensor([0.8, 0.9]).double())}, "Tensor betas"),
        (torch.optim.SGD, {"weight_decay": torch.tensor(0.1)}, "Tensor weight_decay"),
    ]
    table += [(cls, OptimizerInput(None, keywords, name)) for cls, keywords, name in extra]
    return [pytest.param(cls, item.kwargs, id=f"{cls.__name__}-{item.desc}") for cls, item in table]


def parameters(dtype: torch.dtype = torch.float64) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (), (1,), (0,), (2, 0, 3)]
    return [Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def give_gradients(params: list[Any], step: int) -> None:
    """The same gradients for the same values, whoever asks; none for the second parameter in the first step."""
    for index, p in enumerate(params):
        p.grad = None if (step, index) == (0, 1) else torch.sin(3 * p.detach() + index + step)


def run(optimizer: Any, params: list[Any], steps: range) -> None:
    for step in steps:
        give_gradients(params, step)
        optimizer.step(loss=0.5 + step)


def values(params: list[Any]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("cls", "keywords"), inputs())
def test_every_input_of_torchs_suite(cls: Any, keywords: dict[str, Any], implementation: str) -> None:
    flags = IMPLEMENTATIONS[implementation]
    tensors = any(isinstance(keywords.get(key), Tensor) for key in ("lr", "weight_decay")) or "betas" in keywords
    if implementation == "foreach" and tensors:
        pytest.skip("torch has foreach with tensor settings on accelerators only")
    ours, theirs = parameters(), parameters()
    eta = float(keywords.get("lr", 0.01))
    optimizer = OURS[cls](ours, **{"lr": eta, **keywords}, b0=0.7, **flags)
    defaults = {"betas": (0.9, 0.99)} if cls is torch.optim.Adam else {}
    plain = cls(theirs, **{**defaults, **keywords, "lr": eta}, foreach=False, fused=False)
    s = [0.7**2 if cls is torch.optim.SGD else 0.7]
    for step in range(6):
        run(optimizer, ours, range(step, step + 1))
        give_gradients(theirs, step)
        s = reference_step(plain, s, 0.5 + step)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert bool(optimizer.param_groups[0]["foreach"]) == (implementation == "foreach")
    if implementation == "chosen":
        assert bool(optimizer.param_groups[0]["fused"]) == (keywords.get("dampening", 0) == 0)


def error_inputs() -> list[Any]:
    return [
        pytest.param(cls, item, id=f"{cls.__name__}-{item.optimizer_error_input.desc}")
        for cls in OURS
        for item in INFOS[cls.__name__].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    ]


@pytest.mark.parametrize(("cls", "case"), error_inputs())
def test_every_error_input_of_torchs_suite(cls: Any, case: Any) -> None:
    assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    given = case.optimizer_error_input
    params = [Parameter(torch.randn(2))] if given.params is None else given.params
    if issubclass(case.error_type, Warning):
        with pytest.warns(case.error_type, match=case.error_regex):
            OURS[cls](params, **given.kwargs)
    else:
        with pytest.raises(case.error_type):
            OURS[cls](params, **given.kwargs)


def test_fused_and_foreach_together_are_refused() -> None:
    for method in (AdaLoss, AdamLoss, AdaGradNorm, SGDDecaySqrt, AdamSqrt):
        with pytest.raises(RuntimeError, match=r"fused.*foreach"):
            method([Parameter(torch.ones(2))], fused=True, foreach=True)


@both
def test_groups_with_their_own_rate_and_decay(method: Any) -> None:
    def groups(params: list[Parameter]) -> list[dict[str, Any]]:
        return [{"params": params[:1], "lr": 0.5, "weight_decay": 0.0}, {"params": params[1:]}]

    ours, theirs = parameters(), parameters()
    optimizer = method(groups(ours), lr=0.1, weight_decay=0.2)
    plain: Any = torch.optim.SGD if method is AdaLoss else lambda *a, **k: torch.optim.Adam(*a, betas=(0.9, 0.99), **k)
    base, s = plain(groups(theirs), lr=0.1, weight_decay=0.2), [1.0, 1.0]
    for step in range(5):
        run(optimizer, ours, range(step, step + 1))
        give_gradients(theirs, step)
        s = reference_step(base, s, 0.5 + step)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@every_method
def test_add_param_group_after_construction(method: Any) -> None:
    late = Parameter(torch.zeros(3, dtype=torch.float64))
    first = parameters()[:2]
    optimizer = method(first, lr=0.1)
    run(optimizer, first, range(3))
    b = optimizer.b[0].item()
    optimizer.add_param_group({"params": [late], "lr": 0.7, "adaloss_b0": 3.0})
    assert len(optimizer.param_groups) == len(optimizer.b) == len(optimizer.effective_lr) == 2
    assert optimizer.b[0].item() == b
    assert optimizer.b[1].item() == pytest.approx(3.0, rel=1e-15)
    run(optimizer, [*first, late], range(3, 5))
    assert late.abs().min() > 0
    assert optimizer.param_groups[1]["lr"] == 0.7
    assert optimizer.b[1].item() != pytest.approx(optimizer.b[0].item()) or "channel" in str(optimizer.param_groups)


@both
def test_a_group_made_from_another_owns_its_accumulator(method: Any) -> None:
    first, second = (Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = method([first])
    optimizer.add_param_group({**optimizer.param_groups[0], "params": [second], "adaloss_alpha": 3.0})
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step(loss=8.0)
    s = [b.item() ** (2 if method is AdaLoss else 1) for b in optimizer.b]
    assert s == pytest.approx([1 + 8, 1 + 3 * 8])


def test_group_added_to_the_base_behind_our_back() -> None:
    first, second = (Parameter(torch.zeros(2)) for _ in range(2))
    base = torch.optim.SGD([first], lr=1.0)
    optimizer = LossAdaptive(base)
    base.add_param_group({"params": [second]})
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step(loss=3.0)
    assert [b.item() for b in optimizer.b] == [2.0, 2.0]
    assert torch.equal(second.detach(), torch.full((2,), -0.5))


@pytest.mark.parametrize("name", ["AdaLoss", "AdaLoss gradient", "AdamLoss", "AdaGradNorm", "SGDDecaySqrt", "AdamSqrt",
                                  "LossAdaptive(AdamW)"])  # fmt: skip
def test_complex_is_view_as_real(name: str) -> None:
    value = torch.randn(4, 3, dtype=torch.complex128)
    ours, real = Parameter(value.clone()), Parameter(torch.view_as_real(value).clone())
    optimizers = METHODS[name]([ours], lr=0.1), METHODS[name]([real], lr=0.1)
    for step in range(4):
        gradient = torch.randn(4, 3, dtype=torch.complex128)
        ours.grad, real.grad = gradient.clone(), torch.view_as_real(gradient).clone()
        for optimizer in optimizers:
            optimizer.step(loss=1.0 + step)
    torch.testing.assert_close(torch.view_as_real(ours.detach()), real.detach(), **CLOSE)


@pytest.mark.parametrize("method", [AdaLoss, AdamLoss, AdaGradNorm, AdamSqrt])
def test_fused_is_refused_for_complex_at_once(method: Any) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        method([Parameter(torch.randn(3, dtype=torch.complex64))], fused=True)


SPARSE = {
    "AdaLoss": lambda params: AdaLoss(params),
    "AdaLoss fused asked for": lambda params: AdaLoss(params, fused=True),
    "AdaLoss gradient": lambda params: AdaLoss(params, scale="gradient"),
    "AdaLoss momentum": lambda params: AdaLoss(params, momentum=0.9),
    "AdaGradNorm": lambda params: AdaGradNorm(params),
    "AdaGradNorm channel": lambda params: AdaGradNorm(params, granularity="channel"),
    "SGDDecaySqrt": lambda params: SGDDecaySqrt(params),
    "LossAdaptive(Adagrad)": lambda params: LossAdaptive(torch.optim.Adagrad(params)),
}


@pytest.mark.parametrize("method", SPARSE.values(), ids=SPARSE)
@pytest.mark.filterwarnings("ignore:Sparse.*invariant checks:UserWarning")  # torch's advice on a debugging aid
def test_sparse_gradients_are_dense_ones(method: Any) -> None:
    sparse, dense = (Parameter(torch.ones(4, 2, dtype=torch.float64)) for _ in range(2))
    optimizers = method([sparse]), method([dense])
    for step in range(4):
        rows = torch.tensor([[0, 2, 2]])  # a row twice: to be summed
        gradient = torch.sparse_coo_tensor(rows, torch.randn(3, 2, dtype=torch.float64), (4, 2))
        sparse.grad, dense.grad = gradient, gradient.to_dense()
        for optimizer in optimizers:
            optimizer.step(loss=1.0 + step)
    torch.testing.assert_close(sparse.detach(), dense.detach(), **CLOSE)


@pytest.mark.filterwarnings("ignore:Sparse.*invariant checks:UserWarning")
def test_embedding_with_sparse_adam() -> None:
    def train(optimizer_of: Callable[[Any], Any]) -> Tensor:
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(5, 2, sparse=True)
        optimizer, s = optimizer_of(embedding.parameters()), [1.0]
        for index in (0, 3, 3):
            optimizer.zero_grad()
            loss = embedding(torch.tensor([index, 1])).square().sum()
            loss.backward()
            if isinstance(optimizer, LossAdaptive):
                optimizer.step(loss=loss)
            else:
                s = reference_step(optimizer, s, loss.item())
        return embedding.weight.detach()

    ours = train(lambda params: LossAdaptive(torch.optim.SparseAdam(params, lr=0.1)))
    assert torch.equal(ours, train(lambda params: torch.optim.SparseAdam(list(params), lr=0.1)))


@pytest.mark.filterwarnings("ignore:Sparse.*invariant checks:UserWarning")
def test_sparse_gradients_are_refused_by_adam_and_nothing_moves() -> None:
    p = Parameter(torch.ones(3))
    optimizer = AdamLoss([p])
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1), (3,))
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step(loss=5.0)
    assert (optimizer.b[0].item(), optimizer.param_groups[0]["lr"]) == (1.0, 0.01)
    assert torch.equal(p.detach(), torch.ones(3))


@every_method
def test_gradients_are_never_written_into(method: Any) -> None:
    params = parameters()
    optimizer = method(params, lr=0.1)
    for step in range(3):
        give_gradients(params, step)
        before = [(p.grad, None if p.grad is None else (p.grad.clone(), p.grad._version)) for p in params]
        optimizer.step(loss=2.0)
        for p, (gradient, seen) in zip(params, before, strict=True):
            assert p.grad is gradient
            assert gradient is None or (torch.equal(gradient, seen[0]) and gradient._version == seen[1])


@every_method
def test_no_gradient_is_no_step(method: Any) -> None:
    params = parameters()
    before = values(params)
    optimizer = method(params, lr=0.1)
    optimizer.step(loss=2.0)
    assert same(before, values(params))
    run(optimizer, params, range(2))  # and it goes on from there
    assert not same(before, values(params))


@pytest.mark.parametrize("method", [AdaLoss, AdamLoss, AdaGradNorm, SGDDecaySqrt, AdamSqrt])
def test_zero_gradients_without_decay_are_no_step(method: Any) -> None:
    params = parameters()
    before = values(params)
    optimizer = method(params, lr=0.1)
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step(loss=2.0)
    assert same(before, values(params))


@every_method
def test_zero_grad(method: Any) -> None:
    params = parameters()
    optimizer = method(params, lr=0.1)
    give_gradients(params, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [True, False])
@both
def test_dtypes(method: Any, fused: bool, dtype: torch.dtype) -> None:
    if fused and method is not AdamLoss and dtype in SGD_IS_WRONG_IN:
        pytest.skip("this torch's kernel does nothing in half precision, and ours is withdrawn there")
    ours, theirs = parameters(dtype), parameters(dtype)
    keywords: dict[str, Any] = {"eps": 1e-4, "betas": (0.9, 0.99)} if method is AdamLoss else {"momentum": 0.9}
    optimizer = method(ours, lr=0.1, fused=None if fused else False, **keywords)
    plain = (torch.optim.Adam if method is AdamLoss else torch.optim.SGD)(theirs, lr=0.1, fused=fused, **keywords)
    s = [1.0]
    for step in range(1, 5):  # with a gradient for all: torch's fused SGD fails when a momentum buffer comes later
        run(optimizer, ours, range(step, step + 1))
        give_gradients(theirs, step)
        s = reference_step(plain, s, 0.5 + step)
    assert same(values(ours), values(theirs))  # the same kernel of torch at the same rate: bit for bit
    assert bool(optimizer.param_groups[0]["fused"]) == fused


@every_method
def test_mixed_dtypes_in_one_group(method: Any) -> None:
    mixed = [Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    alone = [Parameter(p.detach().clone()) for p in mixed]
    together, apart = method(mixed, lr=0.1), method([{"params": [p]} for p in alone], lr=0.1)
    run(together, mixed, range(3))
    run(apart, alone, range(3))
    for a, b in zip(mixed, alone, strict=True):
        assert a.dtype == b.dtype
        # the total norm is summed in another order, over one group or three
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6) if a.dtype != torch.bfloat16 else None
    assert torch.isfinite(mixed[2]).all()
    assert not torch.equal(mixed[2].detach(), torch.ones(3, dtype=torch.bfloat16))


@every_method
def test_deepcopy_goes_its_own_way(method: Any) -> None:
    params = parameters()
    optimizer = method(params, lr=0.1)
    run(optimizer, params, range(3))
    copied_params, copied = copy.deepcopy((params, optimizer))
    frozen = values(copied_params), [b.item() for b in copied.b]
    run(optimizer, params, range(3, 5))
    assert same(frozen[0], values(copied_params))
    assert [b.item() for b in copied.b] == frozen[1]
    run(copied, copied_params, range(3, 5))
    assert same(values(params), values(copied_params))
    assert [b.item() for b in copied.b] == [b.item() for b in optimizer.b]
    assert type(copied) is type(optimizer)


def test_deepcopy_keeps_hooks_apart() -> None:
    params, calls = parameters(), []
    optimizer = AdaLoss(params)
    copied = copy.deepcopy(optimizer)
    optimizer.register_step_post_hook(lambda *args: calls.append("original"))
    copied.register_step_post_hook(lambda *args: calls.append("copy"))
    optimizer.step(loss=1.0)
    copied.step(loss=1.0)
    assert calls == ["original", "copy"]


@every_method
def test_pickle(method: Any) -> None:
    params = parameters()
    optimizer = method(params, lr=0.1)
    run(optimizer, params, range(3))
    other_params, other = pickle.loads(pickle.dumps((params, optimizer)))
    run(optimizer, params, range(3, 5))
    run(other, other_params, range(3, 5))
    assert same(values(params), values(other_params))
    assert [b.item() for b in other.b] == [b.item() for b in optimizer.b]


def test_repr_shows_the_settings() -> None:
    text = repr(AdaLoss([Parameter(torch.ones(1))], lr=0.3, b0=7.0))
    assert text.startswith("AdaLoss (")
    assert all(line in text for line in ("lr: 0.3", "adaloss_b0: 7.0", "adaloss_alpha: 1.0", "momentum: 0.0"))


@pytest.mark.parametrize(
    "flags",
    [
        ("foreach", "fused", "maximize", "differentiable"),
        ("capturable",),
        ("amsgrad",),
        ("nesterov", "decoupled_weight_decay"),
        ("adaloss_s", "adaloss_b0", "adaloss_alpha"),
    ],
)
@pytest.mark.parametrize("name", ["AdaLoss", "AdamLoss", "LossAdaptive(AdamW)", "AdaGradNorm", "AdamSqrt"])
def test_older_checkpoints_load(name: str, flags: tuple[str, ...]) -> None:
    params = parameters()
    optimizer = METHODS[name](params, lr=0.1)
    run(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    for group, flag in itertools.product(saved["param_groups"], flags):
        group.pop(flag, None)
    fresh = METHODS[name](params, lr=0.1)
    fresh.load_state_dict(saved)
    run(fresh, params, range(2, 4))
    assert all(torch.isfinite(p).all() for p in params)


def test_step_saved_as_a_plain_number_loads() -> None:
    params = parameters()
    optimizer = AdamLoss(params, lr=0.1)
    run(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    copied = [Parameter(p.detach().clone()) for p in params]
    fresh = AdamLoss(copied, lr=0.1)
    fresh.load_state_dict(saved)
    run(optimizer, params, range(2, 4))
    run(fresh, copied, range(2, 4))
    assert same(values(params), values(copied))


@pytest.mark.parametrize("grad_enabled", [True, False])
@every_method
def test_closure_runs_once_with_gradients(method: Any, grad_enabled: bool) -> None:
    params, calls = parameters(), []
    optimizer = method(params, lr=0.1)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    before = values(params)
    expected = sum((p**2).sum() for p in before).item()
    with torch.set_grad_enabled(grad_enabled):
        returned = optimizer.step(closure)
        assert torch.is_grad_enabled() == grad_enabled
    assert calls == [True]
    assert torch.as_tensor(returned).item() == expected
    assert not same(before, values(params))


def test_step_is_not_part_of_the_graph() -> None:
    p = Parameter(torch.ones(3))
    optimizer = AdaLoss([p])
    loss = (p**2).sum()
    loss.backward()
    optimizer.step(loss=loss)
    assert p.is_leaf
    assert p.grad_fn is None
    assert not any(t.requires_grad for t in (*optimizer.b, *optimizer.effective_lr))


@pytest.mark.parametrize(
    "method", [AdaLoss, AdamLoss, lambda params, **kw: LossAdaptive(torch.optim.RMSprop(params, **kw))]
)
def test_differentiable(method: Any) -> None:
    """The step is a differentiable function of parameter and gradient: gradcheck compares with differences."""

    def step(parameter: Tensor, gradient: Tensor) -> Tensor:
        p = parameter.clone()
        p.grad = gradient
        optimizer = method([p], lr=0.1, weight_decay=0.1, differentiable=True)
        optimizer.step(loss=3.0)
        return p

    p = torch.rand(5, dtype=torch.float64, requires_grad=True)
    gradient = torch.rand(5, dtype=torch.float64, requires_grad=True) + 0.5
    assert torch.autograd.gradcheck(step, (p, gradient))


def test_differentiable_in_a_tensor_lr() -> None:
    eta = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    p = w.clone()
    p.grad = torch.tensor([3.0, 5.0], dtype=torch.float64)
    optimizer = AdaLoss([p], lr=eta, b0=1.0, differentiable=True)
    optimizer.step(loss=3.0)  # b = 2
    p.sum().backward()
    assert eta.grad is not None
    assert eta.grad.item() == pytest.approx(-(3 + 5) / 2, rel=1e-15)
    assert optimizer.param_groups[0]["lr"] is eta


@both
def test_named_parameters(method: Any) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = method(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step(loss=1.0)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]
    method(model.named_parameters()).load_state_dict(saved)


@both
def test_lazy_parameters_as_torchs_own_optimizers(method: Any) -> None:
    model = torch.nn.LazyLinear(2)
    torch.optim.SGD(model.parameters(), lr=0.1)  # accepts them
    optimizer = method(model.parameters())
    loss = model(torch.ones(1, 3)).square().sum()
    loss.backward()
    before = model.weight.detach().clone()
    optimizer.step(loss=loss)
    assert not torch.equal(before, model.weight.detach())


@both
def test_an_empty_group(method: Any) -> None:
    p = Parameter(torch.ones(2))
    optimizer = method([{"params": [p]}, {"params": []}])
    p.grad = torch.ones(2)
    optimizer.step(loss=1.0)
    assert len(optimizer.b) == 2
    assert p.max() < 1


@every_method
def test_it_trains(method: Any) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(16, 4)
    y = x.sum(1, keepdim=True)
    optimizer = method(list(model.parameters()), lr=0.05)

    def loss() -> Tensor:
        return torch.nn.functional.mse_loss(model(x), y)

    start = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step(loss=value)
    assert loss().item() < 0.9 * start


@every_method
def test_state_dict_has_torchs_shape(method: Any) -> None:
    params = parameters()
    optimizer = method(params, lr=0.1)
    run(optimizer, params, range(2))
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert saved["param_groups"][0]["params"] == list(range(len(params)))
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    assert set(torch.load(buffer, weights_only=True)) == {"state", "param_groups"}
