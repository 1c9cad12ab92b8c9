"""A decoder-only transformer over bytes (Radford et al. 2019): pre-norm blocks, learned positions, tied embedding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

BYTES = 256


class CausalAttention(nn.Module):
    """Multi-head attention of each byte to itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """New features of shape `[n, length, width]`, as the old ones."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [n, heads, length, ...]
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention, then an MLP four times as wide; each reads normalized features and adds to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """New features of shape `[n, length, width]`, as the old ones."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class GPT(nn.Module):
    """Scores of the next byte.

    Weights start from a normal distribution of deviation 0.02, those that end a branch of a block from one smaller by
    sqrt(2 depth), as in GPT-2. So the first loss is a little below log 256 = 5.55 nats.

    Args:
        context: The longest window.
        width: Size of a byte's features, a multiple of `heads`.
        depth: Number of blocks.
        heads: Heads of each attention.
    """

    def __init__(self, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                ends_branch = name.endswith(("proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5 if ends_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of shape `[n, length, 256]`, of bytes of shape `[n, length]`, int64."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return linear(self.norm(self.blocks(x)), self.embedding.weight)
