"""Several copies of Pendulum-v1: roll-outs to learn from, whole episodes to test on."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

NAME = "Pendulum-v1"
MAX_TORQUE = 2.0

Policy = Callable[[Tensor], Tensor]
"""Actions `[envs, 1]`, in units of the greatest torque, at observations `[envs, 3]`; both on the CPU."""


class Rollout(NamedTuple):
    """Some steps of several environments, side by side."""

    observations: Tensor  # [steps, envs, 3]
    actions: Tensor  # [steps, envs, 1], as the policy drew them, before the torque was limited
    rewards: Tensor  # [steps, envs], from -16.27 (hanging, fast) to 0 (upright, still)
    next_observations: Tensor  # [steps, envs, 3], at the end of an episode its last one
    terminated: Tensor  # [steps, envs], bool
    ended: Tensor  # [steps, envs], bool: terminated or out of time
    returns: Tensor  # [episodes] sums of rewards of the episodes that ended


def to_torque(actions: Tensor) -> NDArray[np.float32]:
    """Torques in N m for `actions`, limited to what the environment takes."""
    torques: NDArray[np.float32] = (MAX_TORQUE * actions).clamp(-MAX_TORQUE, MAX_TORQUE).numpy()
    return torques


def make_pendulums(count: int) -> SyncVectorEnv:
    """`count` copies of the environment, each of which begins a new episode with the step that ends one."""
    make = partial(gymnasium.make, NAME, disable_env_checker=True)  # it warns of a policy that has diverged
    return SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.SAME_STEP)


class Collector:
    """Environments that run on from one roll-out to the next.

    Args:
        count: Environments.
        seed: Seed of the first start states; the environments draw the later ones from it.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._environments = make_pendulums(count)
        self._observations, _ = self._environments.reset(seed=seed)
        self._running = np.zeros(count)

    def collect(self, policy: Policy, steps: int) -> Rollout:
        """Lets `policy` act for `steps` steps in every environment."""
        columns: list[tuple[Tensor, ...]] = []
        returns: list[float] = []
        for _ in range(steps):
            # The environments use one array for every step's observations.
            before = torch.from_numpy(self._observations.copy())
            actions = policy(before)
            self._observations, rewards, terminated, truncated, info = self._environments.step(to_torque(actions))
            after = self._observations.copy()
            ended = terminated | truncated
            self._running += rewards
            for index in np.flatnonzero(ended):
                after[index] = info["final_obs"][index]
                returns.append(float(self._running[index]))
            self._running[ended] = 0.0
            numbers = (rewards.astype(np.float32), after, terminated.copy(), ended)
            columns.append((before, actions, *map(torch.from_numpy, numbers)))
        tensors = [torch.stack(column) for column in zip(*columns, strict=True)] + [torch.tensor(returns)]
        return Rollout._make(tensors)

    def close(self) -> None:
        """Ends the environments."""
        self._environments.close()


def play_episodes(policy: Policy, seeds: Sequence[int]) -> Tensor:
    """Returns `[len(seeds)]` of one whole episode for each seed of a start state."""
    environments = make_pendulums(len(seeds))
    observations, _ = environments.reset(seed=list(seeds))
    returns, is_over = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=bool)
    while not is_over.all():
        actions = to_torque(policy(torch.from_numpy(observations.copy())))
        observations, rewards, terminated, truncated, _ = environments.step(actions)
        returns += np.where(is_over, 0.0, rewards)
        is_over |= terminated | truncated
    environments.close()
    return torch.from_numpy(returns)
