"""The two networks: a Gaussian policy and a value function."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

OBSERVATION = 3  # cos(angle), sin(angle), angular velocity in rad/s
_SCALE = (1.0, 1.0, 1 / 8)  # velocities reach 8 rad/s


def build_mlp(depth: int, width: int) -> nn.Sequential:
    """Fully connected tanh network with `depth` hidden layers: `[..., 3]` to `[..., 1]`."""
    layers: list[nn.Module] = []
    size = OBSERVATION
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.Tanh()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 1))


class _Scaled(nn.Module):
    scale: Tensor

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.network = build_mlp(depth, width)
        self.register_buffer("scale", torch.tensor(_SCALE), persistent=False)

    def _output(self, observations: Tensor) -> Tensor:
        output: Tensor = self.network(observations * self.scale)
        return output


class Actor(_Scaled):
    """Policy `N(mean(observation), std^2)` over actions in units of the greatest torque, with one std for all states.

    Args:
        depth: Hidden layers.
        width: Units of each.
    """

    def __init__(self, depth: int = 2, width: int = 64) -> None:
        super().__init__(depth, width)
        self.log_std = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor) -> Normal:
        """Distribution of the actions, `[..., 1]`, at observations `[..., 3]`."""
        # StopOnDivergence sees a loss that is NaN; torch's own check reads every mean back at every step.
        return Normal(self._output(observations), self.log_std.exp(), validate_args=False)


class Critic(_Scaled):
    """State value: the discounted sum of scaled rewards expected from an observation on.

    Args:
        depth: Hidden layers.
        width: Units of each.
    """

    def forward(self, observations: Tensor) -> Tensor:
        """Values `[...]` of observations `[..., 3]`."""
        return self._output(observations).squeeze(-1)
