"""FrameStrip: pictures of an episode of the trained policy, row by row in one PNG."""

import os
from pathlib import Path

import gymnasium
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from recipes.pendulum.environments import NAME, Policy, to_torque
from recipes.shared.settings import require_at_least

_SWING = slice(105, 395, 3)  # of the 500 pixels each way, those the pendulum can reach
_PER_ROW = 10


def film_episode(policy: Policy, seed: int, every: int) -> tuple[NDArray[np.uint8], float]:
    """Plays one episode and draws every `every`-th state.

    Returns:
        Pictures in rows of ten from left to right, `[97 * rows, 970, 3]`, and the episode's return.
    """
    # pygame draws into memory here: without this it looks for a screen, and complains where there is none.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    environment = gymnasium.make(NAME, render_mode="rgb_array")
    observation, _ = environment.reset(seed=seed)
    pictures, total, step, is_over = [], 0.0, 0, False
    while not is_over:
        if step % every == 0:
            pictures.append(np.asarray(environment.render(), dtype=np.uint8)[_SWING, _SWING])
        torque = to_torque(policy(torch.from_numpy(observation).unsqueeze(0)))[0]
        observation, reward, terminated, truncated, _ = environment.step(torque)
        total, step, is_over = total + float(reward), step + 1, terminated or truncated
    environment.close()
    missing = -len(pictures) % _PER_ROW
    pictures += missing * [np.full_like(pictures[0], 255)]
    rows = [np.concatenate(pictures[start : start + _PER_ROW], axis=1) for start in range(0, len(pictures), _PER_ROW)]
    return np.concatenate(rows), total


class FrameStrip(Callback):
    """Keeps `episode.png`, an episode of the tested policy, in the folder of each logger that has one.

    The module must have a method `act_best(observations) -> actions`.

    Args:
        every: Steps from one picture to the next; an episode has 200, a second 20.
        seed: Seed of the start state; number 10 begins hanging.

    Raises:
        ValueError: `every` below 1.
    """

    def __init__(self, every: int = 5, seed: int = 10) -> None:
        require_at_least(1, every=every)
        self.every = every
        self.seed = seed

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws it, unless there is no logger to keep it."""
        folders = [Path(logger.save_dir) for logger in trainer.loggers if logger.save_dir]
        if not folders or not trainer.is_global_zero:
            return
        from matplotlib.image import imsave

        strip, _ = film_episode(pl_module.act_best, self.seed, self.every)  # type: ignore[arg-type]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            imsave(folder / "episode.png", strip)
