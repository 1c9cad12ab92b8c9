"""Inverted pendulum swing-up: gymnasium's Pendulum-v1, PPO with an actor and a critic (Figure 3 of the paper)."""

from adaloss_lightning.extras import require

require("recipes", "gymnasium")
