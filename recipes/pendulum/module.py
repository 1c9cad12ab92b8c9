"""PPO with two optimizers under Lightning's manual optimization."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from adaloss_lightning.optim.rate_adaptive import adaptive_in
from recipes.pendulum.environments import Rollout, play_episodes
from recipes.pendulum.networks import Actor, Critic
from recipes.pendulum.ppo import Fed, fed_losses, generalized_advantages, surrogate_loss
from recipes.shared.settings import require_at_least

RECENT_EPISODES = 50


class Samples(NamedTuple):
    """The frames of a roll-out, in no order."""

    observations: Tensor  # [n, 3]
    actions: Tensor  # [n, 1]
    log_probs: Tensor  # [n], under the policy that took the actions
    advantages: Tensor  # [n], centred and of variance 1
    targets: Tensor  # [n], of the critic

    def minibatches(self, size: int) -> Iterator["Samples"]:
        """All frames once, in a random order, `size` at a time."""
        for index in torch.split(torch.randperm(len(self.targets), device=self.targets.device), size):
            yield Samples(*(tensor[index] for tensor in self))


class PendulumModule(LightningModule):
    """Actor-critic PPO on roll-outs; one training batch is one roll-out.

    Logs, against frames, `train/return` (mean of the last 50 episodes), `train/loss` (mean of |actor loss| + critic
    loss), `train/actor_loss`, `train/critic_loss` and `train/frames`; validation and test log `val/return` and
    `test/return` of the mean action.

    Args:
        optimizer: Makes an optimizer of parameters; called once for each network. One of this project is fed the loss
            that `fed` names, as is any other under `AdaLossCallback`; without it a closure returns that loss.
        fed: Which loss drives b, as in `fed_losses`.
        discount: gamma.
        trace: lambda of the generalized advantages.
        clip: epsilon of the surrogate.
        passes: Passes over each roll-out.
        minibatch: Frames per optimizer step.
        reward_scale: Factor on the rewards the critic learns from; returns are logged without it. Rewards from -16.3 to
            0 and discount 0.9 give values from -163 to 0, so the critic's loss, which drives b, starts near a
            thousand.
        actor_depth: Hidden layers of the actor.
        critic_depth: Hidden layers of the critic.
        width: Units of each hidden layer.

    Raises:
        ValueError: A number out of its bounds.
    """

    frames: Tensor

    def __init__(
        self,
        optimizer: OptimizerCallable,
        fed: Fed = "total",
        discount: float = 0.9,
        trace: float = 0.95,
        clip: float = 0.2,
        passes: int = 10,
        minibatch: int = 256,
        reward_scale: float = 1.0,
        actor_depth: int = 2,
        critic_depth: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        require_at_least(
            1, passes=passes, minibatch=minibatch, width=width, actor_depth=actor_depth, critic_depth=critic_depth
        )
        for name, share in (("discount", discount), ("trace", trace)):
            if not 0 <= share <= 1:
                raise ValueError(f"Invalid {name}={share}. Must be from 0 to 1.")
        for name, positive in (("clip", clip), ("reward_scale", reward_scale)):
            if not positive > 0:
                raise ValueError(f"Invalid {name}={positive}. Must be > 0.")
        self.save_hyperparameters(logger=False, ignore="optimizer")
        self._optimizer = optimizer
        self.automatic_optimization = False
        self.actor = Actor(actor_depth, width)
        self.critic = Critic(critic_depth, width)
        self.register_buffer("frames", torch.zeros((), dtype=torch.int64))
        self._recent: deque[float] = deque(maxlen=RECENT_EPISODES)

    def configure_optimizers(self) -> list[Optimizer]:
        """The actor's optimizer and the critic's."""
        networks: tuple[nn.Module, nn.Module] = (self.actor, self.critic)
        return [self._optimizer(network.parameters()) for network in networks]

    def on_fit_start(self) -> None:
        """Refuses several devices."""
        if self.trainer.world_size > 1:
            raise MisconfigurationException(
                f"Invalid world size {self.trainer.world_size}. Must be 1: roll-outs are not shared between processes. "
                "Use --trainer.devices 1 and more --data.num_envs."
            )

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Draws actions `[envs, 1]` at observations `[envs, 3]`; both on the CPU, where the environments are."""
        policy = self.actor(observations.to(self.device))
        # torch.normal refuses a deviation that is NaN: a policy that has diverged acts NaN, and its losses show it
        actions: Tensor = policy.mean + policy.stddev * torch.randn_like(policy.mean)
        return actions.cpu()

    @torch.no_grad()
    def act_best(self, observations: Tensor) -> Tensor:
        """The mean actions `[envs, 1]` at observations `[envs, 3]`; both on the CPU."""
        actions: Tensor = self.actor(observations.to(self.device)).mean
        return actions.cpu()

    def training_step(self, batch: Rollout, batch_idx: int) -> None:
        """Several passes over the roll-out, both networks stepping on every minibatch."""
        samples = self.samples(batch)
        losses = [
            self._update(minibatch)
            for _ in range(self.hparams["passes"])
            for minibatch in samples.minibatches(self.hparams["minibatch"])
        ]
        self._log_rollout(batch, *torch.tensor(losses).T)

    @torch.no_grad()
    def samples(self, rollout: Rollout) -> Samples:
        """The frames of a roll-out with what both networks learn from them."""
        values, next_values = self.critic(rollout.observations), self.critic(rollout.next_observations)
        rewards = self.hparams["reward_scale"] * rollout.rewards
        advantages = generalized_advantages(
            rewards, values, next_values, rollout.terminated, rollout.ended,
            self.hparams["discount"], self.hparams["trace"],
        )  # fmt: skip
        log_probs = self.actor(rollout.observations).log_prob(rollout.actions).squeeze(-1)
        deviation, mean = torch.std_mean(advantages)
        columns = (log_probs, (advantages - mean) / (deviation + 1e-8), advantages + values)
        return Samples(
            rollout.observations.flatten(0, 1), rollout.actions.flatten(0, 1), *(column.flatten() for column in columns)
        )

    def _update(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """One step of each network on one minibatch; returns the actor's and the critic's loss before it."""
        log_probs = self.actor(samples.observations).log_prob(samples.actions).squeeze(-1)
        actor_loss = surrogate_loss(log_probs, samples.log_probs, samples.advantages, self.hparams["clip"])
        critic_loss = nn.functional.mse_loss(self.critic(samples.observations), samples.targets)
        optimizers: list[LightningOptimizer] = self.optimizers()  # type: ignore[assignment]  # two of them
        for optimizer in optimizers:
            optimizer.zero_grad()
        # The networks share no parameter, so one backward gives each the gradient of its own loss.
        self.manual_backward(actor_loss + critic_loss)
        fed = fed_losses(actor_loss, critic_loss, self.hparams["fed"])
        for optimizer, loss in zip(optimizers, fed, strict=True):
            if adaptive_in(optimizer.optimizer) is not None:
                optimizer.step(loss=loss)
            else:
                optimizer.step(closure=partial(Tensor.detach, loss))
        return actor_loss.detach(), critic_loss.detach()

    def _log_rollout(self, rollout: Rollout, actor_losses: Tensor, critic_losses: Tensor) -> None:
        self.frames += rollout.rewards.numel()
        self._recent.extend(rollout.returns.tolist())
        values = {
            "train/frames": self.frames.float(),
            "train/loss": (actor_losses.abs() + critic_losses).mean(),
            "train/actor_loss": actor_losses.mean(),
            "train/critic_loss": critic_losses.mean(),
            "step": self.frames.float(),  # what Lightning hands to loggers as the step
        }
        self.log_dict(values, batch_size=1)
        if self._recent:
            self.log("train/return", sum(self._recent) / len(self._recent), prog_bar=True, batch_size=1)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Mean return of one episode for each seed of `batch`."""
        self._log_episodes("val/return", batch)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Mean return of one episode for each seed of `batch`."""
        self._log_episodes("test/return", batch)

    def _log_episodes(self, name: str, seeds: Tensor) -> None:
        returns = play_episodes(self.act_best, seeds.tolist())
        self.log(name, returns.mean().float(), batch_size=len(returns))
