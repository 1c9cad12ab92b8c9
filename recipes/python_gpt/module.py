"""Language modelling of bytes."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.python_gpt.network import GPT
from recipes.shared.module import Supervised
from recipes.shared.settings import require_at_least


class GPTModule(Supervised):
    """Trains a GPT to predict each byte from those before it; logs `{train,val,test}/loss`, in nats per byte.

    Args:
        context: The longest window; on the command line `--data.context`.
        width: Size of a byte's features, a multiple of `heads`.
        depth: Number of blocks.
        heads: Heads of each attention.

    Raises:
        ValueError: A size below 1, or a width that the heads cannot share.
    """

    def __init__(self, context: int = 128, width: int = 128, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        require_at_least(1, context=context, width=width, depth=depth, heads=heads)
        if width % heads:
            raise ValueError(f"Invalid width={width}. Must be a multiple of heads={heads}.")
        self.save_hyperparameters(logger=False)
        self.network = GPT(context, width, depth, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next byte, shape `[n, length, 256]`, of bytes of shape `[n, length]`."""
        scores: Tensor = self.network(tokens)
        return scores

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the bytes, in nats."""
        return cross_entropy(predicted.flatten(0, 1), targets.flatten())
