"""The equations of PPO: generalized advantages, clipped surrogate, and the losses that drive b."""

from typing import Literal

import torch
from torch import Tensor

Fed = Literal["total", "own"]


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    r"""Generalized advantage estimates (Schulman et al., arXiv 1506.02438, eq. 16).

    .. math::
        \delta_t = r_t + \gamma (1 - terminated_t) V(s'_t) - V(s_t), \qquad
        A_t = \delta_t + \gamma \lambda (1 - ended_t) A_{t+1}

    An episode that runs out of time is cut (`ended`) and still has a future (not `terminated`).

    Args:
        rewards: `[steps, envs]`.
        values: V of the observations acted on, `[steps, envs]`.
        next_values: V of the observations that followed, those at the end of an episode included, `[steps, envs]`.
        terminated: Whether the episode reached a state without future, `[steps, envs]`, bool.
        ended: Whether the episode ended for any reason, `[steps, envs]`, bool.
        discount: gamma.
        trace: lambda.

    Returns:
        Advantages, `[steps, envs]`.
    """
    deltas = rewards + discount * next_values * ~terminated - values
    carry = discount * trace * (~ended).to(deltas.dtype)
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        following = deltas[step] + carry[step] * following
        advantages[step] = following
    return advantages


def surrogate_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    r"""Minus the clipped surrogate objective of PPO (Schulman et al., arXiv 1707.06347, eq. 7).

    .. math::
        L = -\mathrm{mean} \min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A), \quad \rho = \pi / \pi_{old}

    It is 0 for the old policy with centred advantages and negative for a better one.

    Args:
        log_probs: Log-probabilities of the actions taken, under the policy now, `[n]`.
        old_log_probs: The same under the policy that took them, `[n]`.
        advantages: `[n]`.
        clip: epsilon.
    """
    ratio = (log_probs - old_log_probs).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


def fed_losses(actor_loss: Tensor, critic_loss: Tensor, fed: Fed) -> tuple[Tensor, Tensor]:
    """What drives b of the actor's and of the critic's optimizer.

    Args:
        actor_loss: Surrogate loss, of mean about 0 and of either sign whatever the policy is worth.
        critic_loss: Mean squared error of the values, >= 0.
        fed: `own` feeds each network its own loss; `total` feeds both |actor_loss| + critic_loss.
    """
    if fed == "own":
        return actor_loss.detach(), critic_loss.detach()
    total = actor_loss.detach().abs() + critic_loss.detach()
    return total, total
