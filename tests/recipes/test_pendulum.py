"""The pendulum recipe: its equations, its environments, its runs, its report."""

import math
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib.image import imread
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from torch import Tensor

from adaloss_lightning import AdamLoss
from adaloss_lightning.tracking.console.app import main as adaloss
from adaloss_lightning.tracking.reports.results import collect
from recipes.pendulum import report
from recipes.pendulum.__main__ import main
from recipes.pendulum.data import PendulumData
from recipes.pendulum.environments import Collector, Rollout, play_episodes
from recipes.pendulum.film import FrameStrip, film_episode
from recipes.pendulum.module import PendulumModule
from recipes.pendulum.ppo import fed_losses, generalized_advantages, surrogate_loss
from tests.recipes.runs import QUIET, ROLLOUT, TINY, config, fit, history, only_run, run_recipe

UPDATES = 2 * math.ceil(ROLLOUT / 64)


def swing(observations: Tensor) -> Tensor:
    """Some policy: pushes against the velocity, at times harder than the environment allows."""
    return -0.5 * observations[:, 2:]


def make_module(**arguments: object) -> PendulumModule:
    return PendulumModule(lambda parameters: AdamLoss(parameters), **arguments)


def test_generalized_advantages_are_the_discounted_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    steps, envs, discount, trace = 9, 3, 0.9, 0.8
    rewards, values, next_values = torch.randn(3, steps, envs, generator=generator, dtype=torch.float64)
    terminated = torch.rand(steps, envs, generator=generator) < 0.2
    ended = terminated | (torch.rand(steps, envs, generator=generator) < 0.2)
    assert (ended & ~terminated).any()
    got = generalized_advantages(rewards, values, next_values, terminated, ended, discount, trace)
    for env in range(envs):
        for start in range(steps):  # the sum over the rest of the episode, term by term
            total = 0.0
            for step in range(start, steps):
                future = 0.0 if terminated[step, env] else discount * float(next_values[step, env])
                delta = float(rewards[step, env]) + future - float(values[step, env])
                total += (discount * trace) ** (step - start) * delta
                if ended[step, env]:
                    break
            assert float(got[start, env]) == pytest.approx(total, rel=1e-12)


def test_generalized_advantages_give_an_episode_out_of_time_a_future() -> None:
    one = torch.ones(1, 2)
    terminated = torch.tensor([[False, True]])
    got = generalized_advantages(one, 2 * one, 10 * one, terminated, torch.ones(1, 2).bool(), 0.5, 1.0)
    assert got.tolist() == [[1 + 0.5 * 10 - 2, 1 - 2]]


def test_surrogate_loss_is_clipped_where_it_would_gain() -> None:
    log_probs = torch.log(torch.tensor([1.5, 0.5, 1.5, 0.5])).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss = surrogate_loss(log_probs, torch.zeros(4), advantages, clip=0.2)
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    loss.backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, -torch.tensor([0.0, 0.5, -1.5, 0.0]) / 4)


def test_fed_losses_are_detached_totals_or_own() -> None:
    actor, critic = torch.tensor(-0.25, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    assert [loss.item() for loss in fed_losses(actor, critic, "total")] == [2.25, 2.25]
    assert [loss.item() for loss in fed_losses(actor, critic, "own")] == [-0.25, 2.0]
    assert not any(loss.requires_grad for fed in ("total", "own") for loss in fed_losses(actor, critic, fed))


def test_collector_takes_the_steps_of_single_environments() -> None:
    collector = Collector(2, seed=5)
    parts = [collector.collect(swing, 130), collector.collect(swing, 130)]
    collector.close()
    for index in range(2):
        env = gymnasium.make("Pendulum-v1")
        observation, _ = env.reset(seed=5 + index)
        total, returns = 0.0, []
        for step in range(260):
            part, row = parts[step // 130], step % 130
            np.testing.assert_array_equal(part.observations[row, index], observation)
            torque = np.clip(2 * swing(torch.from_numpy(observation)[None])[0].numpy(), -2, 2)
            observation, reward, terminated, truncated, _ = env.step(torque)
            total += reward
            assert part.rewards[row, index].item() == pytest.approx(reward, rel=1e-6)
            np.testing.assert_array_equal(part.next_observations[row, index], observation)
            assert (part.terminated[row, index].item(), part.ended[row, index].item()) == (terminated, truncated)
            if truncated:
                assert step == 199
                returns.append(total)
                observation, _ = env.reset()
        assert parts[0].returns.tolist() == []
        assert parts[1].returns[index].item() == pytest.approx(returns[0], rel=1e-6)
        env.close()


def test_play_episodes_plays_single_environments() -> None:
    expected = []
    for seed in (3, 8):
        env = gymnasium.make("Pendulum-v1")
        observation, _ = env.reset(seed=seed)
        total, truncated = 0.0, False
        while not truncated:
            torque = np.clip(2 * swing(torch.from_numpy(observation)[None])[0].numpy(), -2, 2)
            observation, reward, _, truncated, _ = env.step(torque)
            total += reward
        expected.append(total)
        env.close()
    np.testing.assert_allclose(play_episodes(swing, [3, 8]), expected, rtol=1e-12)
    strip, total = film_episode(swing, seed=8, every=50)
    assert strip.shape == (97, 10 * 97, 3)
    assert (strip[:, 4 * 97 :] == 255).all()  # four pictures, six empty places
    assert all((strip[:, index * 97 : (index + 1) * 97] < 255).any() for index in range(4))
    assert total == pytest.approx(expected[1], rel=1e-12)


def test_samples_have_centred_advantages() -> None:
    module = make_module(reward_scale=0.5)
    steps, envs = 5, 2
    rollout = Rollout(
        torch.randn(steps, envs, 3), torch.randn(steps, envs, 1), torch.randn(steps, envs),
        torch.randn(steps, envs, 3), torch.zeros(steps, envs).bool(), torch.zeros(steps, envs).bool(), torch.zeros(0),
    )  # fmt: skip
    samples = module.samples(rollout)
    with torch.no_grad():
        values, following = module.critic(rollout.observations), module.critic(rollout.next_observations)
        mean = module.actor.network(rollout.observations * torch.tensor([1, 1, 1 / 8]))
    none = torch.zeros(steps, envs).bool()
    raw = generalized_advantages(0.5 * rollout.rewards, values, following, none, none, 0.9, 0.95).flatten()
    torch.testing.assert_close(samples.targets, raw + values.flatten())
    torch.testing.assert_close(samples.advantages, (raw - raw.mean()) / raw.std())
    density = -0.5 * (rollout.actions - mean) ** 2 - 0.5 * math.log(2 * math.pi)  # std is 1 at the start
    torch.testing.assert_close(samples.log_probs, density.flatten())
    parts = list(samples.minibatches(4))
    assert [len(part.targets) for part in parts] == [4, 4, 2]
    assert sorted(torch.cat([part.targets for part in parts]).tolist()) == sorted(samples.targets.tolist())


def test_rollouts_are_of_the_policy_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    act = PendulumModule.act

    def spy(self: PendulumModule, observations: Tensor) -> Tensor:
        seen.append(int(self.frames))
        return act(self, observations)

    monkeypatch.setattr(PendulumModule, "act", spy)
    fit("pendulum", "adam", "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--data.rollout=24")
    assert seen == [24 * done for done in range(4) for _ in range(24)]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("method", ["adamloss", "adamloss_own"])
def test_fed_losses_drive_b_of_both_optimizers(client: MlflowClient, method: str) -> None:
    of_one_size = ["--model.reward_scale=0.01", "--optimizer.lr=0.01"]  # else their difference loses digits
    fit("pendulum", method, "--optimizer.b0=0.25", *of_one_size)
    run = only_run(client)
    assert not [name for name in run.data.params if name.startswith("model.optimizer")]
    assert "val/return" not in run.data.metrics  # it would choose nothing
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/return")]
    assert steps == history(client, run, "train/frames").tolist() == [ROLLOUT * (index + 1) for index in range(4)]
    # Each optimizer makes UPDATES steps a roll-out; train/loss is their mean of |actor loss| + critic loss.
    total = 0.25 + UPDATES * np.cumsum(history(client, run, "train/loss"))
    critic = 0.25 + UPDATES * np.cumsum(history(client, run, "train/critic_loss"))
    expected = (total, total) if method == "adamloss" else (0.25 + total - critic, critic)
    for index, b in enumerate(expected):
        np.testing.assert_allclose(history(client, run, f"adaloss/b/optimizer{index}"), b, rtol=1e-5)  # float32 logs
    artifacts = Path(run.info.artifact_uri)
    assert imread(artifacts / "episode.png").shape == (4 * 97, 10 * 97, 4)
    assert [path.name for path in (artifacts / "checkpoints").iterdir()] == ["epoch=1.ckpt"]


def test_validation_takes_other_episodes_than_the_test(client: MlflowClient) -> None:
    for command in ("validate", "test"):
        run_recipe("pendulum", command, config("pendulum", "adam"), *QUIET, "--data.test_episodes=3")
    test, validation = client.search_runs([client.get_experiment_by_name("pendulum").experiment_id])
    assert -2000 < validation.data.metrics["val/return"] < 0
    assert validation.data.metrics["val/return"] != test.data.metrics["test/return"]  # the same policy: seed 1


def test_config_artifact_repeats_the_run(client: MlflowClient) -> None:
    fit("pendulum", "adamloss_own", "--seed_everything=3")
    first = only_run(client)
    main(["fit", f"--config={Path(first.info.artifact_uri, 'config.yaml')}"])
    again = client.search_runs([first.info.experiment_id])[0]
    assert again.info.run_id != first.info.run_id
    assert (again.data.params, again.data.metrics) == (first.data.params, first.data.metrics)


def test_fit_learns_to_swing_up(client: MlflowClient) -> None:
    arguments = ["--optimizer.b0=0.01", "--trainer.max_epochs=2", "--trainer.callbacks=[]"]
    run_recipe("pendulum", "fit", config("pendulum", "adamloss"), *QUIET, *arguments)
    run = only_run(client)
    assert history(client, run, "train/return")[0] < -900
    assert run.data.metrics["test/return"] > -300
    assert run.data.metrics["train/frames"] == 40960


def test_sweep_sets_b0_of_both_optimizers(client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    more = [*TINY["pendulum"], "--trainer.max_epochs=1"]
    assert adaloss(["sweep", "--recipe=pendulum", "--methods=adam", "--b0=4,0.25", "--seeds=1", "--", *more]) == 0
    experiment = client.get_experiment_by_name("pendulum")
    runs = client.search_runs([experiment.experiment_id], "params.b0 != ''")
    rates = {
        (run.data.params["b0"], name): run.data.metrics[f"adaloss/effective_lr/{name}"]
        for run in runs
        for name in ("optimizer0", "optimizer1")
    }
    assert rates == pytest.approx({
        ("4.0", "optimizer0"): 0.5, ("4.0", "optimizer1"): 0.5,
        ("0.25", "optimizer0"): 2.0, ("0.25", "optimizer1"): 2.0,
    })  # fmt: skip
    report.main(["--experiment=pendulum", "--out=out"])
    assert "| adam |" in Path("out", "pendulum.md").read_text()


@pytest.mark.parametrize("command", [
    ["fit", config("pendulum", "adam"), "--lr_scheduler=StepLR"],
    ["fit", config("pendulum", "adam"), "--model.fed=none"],
])  # fmt: skip
def test_command_line_refuses_what_it_does_not_have(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(command)
    assert command[-1].partition("=")[0].strip("-").partition(".")[2] in capsys.readouterr().err


@pytest.mark.parametrize("make", [
    lambda: make_module(passes=0), lambda: make_module(actor_depth=0), lambda: make_module(discount=1.5),
    lambda: make_module(clip=-0.2), lambda: make_module(reward_scale=math.nan), lambda: FrameStrip(every=0),
    lambda: PendulumData(num_envs=0), lambda: PendulumData(rollout=2047), lambda: PendulumData(rollout=-8),
])  # fmt: skip
def test_impossible_numbers_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=\S+\. Must be "):
        make()


def test_several_devices_are_refused() -> None:
    module = make_module()
    module.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(MisconfigurationException, match=r"Invalid world size 2\. Must be 1"):
        module.on_fit_start()


def store_curve(client: MlflowClient, method: str, b0: float, seed: int, returns: list[float]) -> None:
    experiment = client.get_experiment_by_name("made")
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("made"))
    params = {"recipe": "pendulum", "method": method, "b0": b0, "seed": seed}
    metrics = [
        Metric(name, value, 0, 1000 * (index + 1))
        for index, point in enumerate(returns)
        for name, value in (("train/return", point), ("train/frames", 1000.0 * (index + 1)))
    ]
    client.log_batch(run.info.run_id, metrics, [Param(key, str(value)) for key, value in params.items()])
    client.set_terminated(run.info.run_id)


def test_report_of_runs_made_by_hand(client: MlflowClient, folder: Path) -> None:
    for b0, ends in ((0.1, (-150.0, -170.0)), (10.0, (-190.0, -180.0))):
        for seed, end in enumerate(ends):
            store_curve(client, "adamloss", b0, seed, [-1200.0, -195.0, end])
            store_curve(client, "adam", b0, seed, [-1200.0, -900.0, 10 * end])
    store_curve(client, "adamloss", 0.1, 0, [-1200.0, -300.0, -160.0])  # again: the newest counts
    store_curve(client, "adamloss_own", 0.1, 0, [-500.0])
    report.main(["--experiment=made", "--out=out"])
    text = (folder / "out" / "pendulum.md").read_text()
    assert "| adamloss | -165 ± 7.071 | -185 ± 7.071 | -185 | -165 |" in text
    assert "| adamloss | 3, 2 | 2, 2 |" in text
    assert "| adam | never, never | never, never |" in text
    assert "| adamloss_own | never | - |" in text
    assert "| not tested | 2 seeds, it takes 3 |" in text
    assert all(part in text for part in ("adamloss: 30, 10", "adam: 400, 100", "adamloss_own: no value"))
    assert imread(folder / "out" / report.FIGURE_FILE).shape[2] == 4


def test_a_policy_that_diverges_ends_its_run_as_diverged(client: MlflowClient) -> None:
    more = [*TINY["pendulum"], "--optimizer.lr=1e30", "--trainer.callbacks=[]"]
    assert adaloss(["sweep", "--recipe=pendulum", "--methods=adam", "--b0=1", "--seeds=1", "--", *more]) == 0
    assert collect(client, "pendulum").cells["adam", 1.0].is_diverged


def test_a_policy_that_is_nan_plays_on() -> None:
    returns = play_episodes(lambda observations: torch.full((len(observations), 1), math.nan), [1, 2])
    assert returns.isnan().all()
