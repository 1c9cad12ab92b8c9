"""Roll-outs as training batches, start states as test batches."""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.pendulum.environments import Collector, Policy, Rollout
from recipes.shared.settings import require_at_least


class Rollouts(Dataset[Rollout]):
    """Roll-outs, each made when it is requested, with the policy as it is then.

    The dataset has a length because Lightning fetches ahead from one without: that roll-out would be the last policy's.

    Args:
        collector: The environments.
        policy: What acts in them.
        steps: Steps of each environment in a roll-out.
        count: Roll-outs of an epoch.
    """

    def __init__(self, collector: Collector, policy: Policy, steps: int, count: int) -> None:
        self._collector = collector
        self._policy = policy
        self._steps = steps
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Rollout:
        return self._collector.collect(self._policy, self._steps)


class PendulumData(LightningDataModule):
    """Roll-outs of the module's own policy in several copies of Pendulum-v1.

    The module must have a method `act(observations) -> actions`.

    Args:
        rollout: Frames of a roll-out over all environments: the paper's roll-out length.
        num_envs: Environments side by side.
        epoch_rollouts: Roll-outs of an epoch.
        test_episodes: Episodes of the test, and as many others of the validation. Their start states are the same for
            every run.

    Raises:
        ValueError: A number below 1, or a roll-out that the environments cannot share.
    """

    def __init__(
        self, rollout: int = 2048, num_envs: int = 8, epoch_rollouts: int = 10, test_episodes: int = 20
    ) -> None:
        super().__init__()
        require_at_least(1, num_envs=num_envs, epoch_rollouts=epoch_rollouts, test_episodes=test_episodes)
        if rollout < 1 or rollout % num_envs:
            raise ValueError(f"Invalid rollout={rollout}. Must be a multiple of num_envs={num_envs}, >= 1.")
        self.num_envs = num_envs
        self.steps = rollout // num_envs
        self.epoch_rollouts = epoch_rollouts
        self.test_episodes = test_episodes
        self._collector: Collector | None = None

    def train_dataloader(self) -> DataLoader[Rollout]:
        """Roll-outs one by one; the start states follow from `seed_everything`."""
        policy: Callable[[Tensor], Tensor] = self.trainer.lightning_module.act  # type: ignore[union-attr, assignment]
        self._collector = Collector(self.num_envs, seed=int(torch.randint(2**31, ())))
        rollouts = Rollouts(self._collector, policy, self.steps, self.epoch_rollouts)
        return DataLoader(rollouts, batch_size=None)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """The seeds of all start states in one batch: those behind the seeds of the test."""
        return self._episodes(first=self.test_episodes)

    def test_dataloader(self) -> DataLoader[Tensor]:
        """The seeds of all start states in one batch."""
        return self._episodes(first=0)

    def _episodes(self, first: int) -> DataLoader[Tensor]:
        seeds: Dataset[Tensor] = torch.arange(first, first + self.test_episodes)  # type: ignore[assignment]  # a dataset
        return DataLoader(seeds, batch_size=self.test_episodes)

    def teardown(self, stage: str) -> None:
        """Ends the environments."""
        if self._collector is not None:
            self._collector.close()
            self._collector = None
