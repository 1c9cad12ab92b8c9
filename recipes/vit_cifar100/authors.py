"""AdaGrad-Norm as the authors' public code runs it, which is not what footnote 8 of the paper says."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from adaloss_lightning.optim.adagrad_norm import ChannelNorm, channel_squares, divide_channels
from adaloss_lightning.optim.engine import _fused as bases
from adaloss_lightning.optim.engine.fused_choice import Params
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.method import B0
from adaloss_lightning.optim.rate_adaptive import RateAdaptive
from adaloss_lightning.optim.validation import require_number

UNDIVIDED = PREFIX + "undivided"
_OF_MATRICES = (2, 4)  # dimensions of linear and convolution weights


class _RowNorm(ChannelNorm):
    """A b for each row of a matrix or convolution, and for each element of anything else."""

    def validate(self, group: Group) -> None:
        super().validate(group)
        require_number("undivided", group[UNDIVIDED], at_least=0)

    def shape(self, p: Tensor) -> Sequence[int]:
        return p.shape[:1] if p.dim() in _OF_MATRICES else p.shape

    def squares(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        rows: Tensor | None = None  # of the last matrix
        for gradient in gradients:
            if gradient.dim() in _OF_MATRICES:
                rows = channel_squares(gradient)
                found.append(rows)
                continue
            own = channel_squares(gradient.flatten()).reshape(gradient.shape)
            if rows is not None and gradient.dim() == 1 and len(rows) % len(gradient) == 0:
                own = own + rows.view(len(gradient), -1).mean(dim=1)
            found.append(own)
        return found

    def gradients(self, groups: Sequence[Group]) -> Iterable[tuple[Tensor, Tensor]]:
        return [
            (p, divide_channels(p.grad, self._next[p].sqrt()) + group[UNDIVIDED] * p.grad)
            for group in groups
            for p in group["params"]
            if p.grad is not None
        ]


class AuthorsAdaGradNorm(RateAdaptive):
    r"""AdaGrad-Norm of the authors' repository, without its momentum.

    For each step with the gradient g of a parameter, in the order of the parameters:

    1. A matrix or convolution has a b for each row (output channel): :math:`b_i^2 \gets b_i^2 + \|g_i\|^2`.
    2. Any other parameter has a b for each element: :math:`b_j^2 \gets b_j^2 + g_j^2`. With one dimension (biases,
       LayerNorm) :math:`b_j^2` also grows by :math:`\|g_j\|^2` of row j of the last matrix before it. Where that has
       k times as many rows, the mean of k rows counts; where the numbers do not divide, no row does.
    3. :math:`w \gets w - \eta \, (g / b + r \, g)`: what their code calls weight decay, r = 1e-4, multiplies the
       gradient. Nothing decays.

    timm's ViT has class token and position embedding before every matrix. Their b + 1e-10 is b here, which is >= b0.
    `b` reports the mean of all b, most of which are the position embedding's.

    Args:
        params: As for `torch.optim.SGD`.
        lr: The paper's eta, >= 0.
        b0: Start of each b, > 0.
        undivided: r, >= 0.

    Raises:
        ValueError: A hyper-parameter is out of its bounds.
    """

    def __init__(self, params: Params, lr: float = 0.1, *, b0: float = 1.0, undivided: float = 1e-4) -> None:
        super().__init__(bases.SGD(params, lr=lr), _RowNorm(), {B0: b0, UNDIVIDED: undivided})
