"""Judgement of a report on what runs say about themselves: whether they diverged, what counts, and which way."""

import json

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger, SweepError
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.metrics import is_lower_better
from adaloss_lightning.tracking.reports.figures import draw
from adaloss_lightning.tracking.reports.report import markdown_table, text_table
from adaloss_lightning.tracking.reports.results import collect
from adaloss_lightning.tracking.reports.robustness import robustness
from tests.tracking.report_runs import SWEEP, write_parent, write_point

NAN, INF = float("nan"), float("inf")
POINT = SWEEP | {"method": "adam", "b0": "0.1", "seed": "1"}


def gap(client: MlflowClient, metric: str | None = None) -> str | None:
    return collect(client, "e", metric).cells["adam", 0.1].gaps.get("1")


@pytest.mark.parametrize(
    ("history", "is_diverged"),
    [
        # values of a metric by step, in the order in which they are logged
        ([("train/loss", 0, 1.0), ("train/loss", 1, NAN), ("train/loss", 2, INF)], True),
        ([("val_loss", 0, NAN)], True),
        ([("train/loss_epoch", 3, NAN)], True),
        ([("loss", 0, 1.0), ("loss", 0, NAN)], True),  # without steps
        ([("loss", 0, NAN), ("loss", 0, 1.0)], False),
        ([("train/loss", 1, NAN), ("train/loss", 2, 1.0)], False),
        ([("train/loss", 1, NAN), ("train/loss", 2, 1.0), ("train/loss", 3, NAN)], True),
        ([("grad_norm", 0, INF)], False),  # an overflow that fp16 skips, say
        ([("val/wer", 0, 0.5), ("val/wer", 1, NAN)], True),  # monitored
        ([("both", 1, NAN)], True),  # monitored with both modes
        ([("val/loss/dataloader_idx_0", 1, NAN)], True),
        ([("test/acc", 5, 0.9), ("test/acc", 6, NAN)], True),  # reported
    ],
)
def test_a_metric_that_counts_and_is_not_finite_at_the_end_is_a_divergence(
    client: MlflowClient, history: list[tuple[str, int, float]], is_diverged: bool
) -> None:
    run = write_point(client, write_parent(client), POINT, 0.9)
    client.set_tag(run, "adaloss.monitors", json.dumps({"val/wer": "min", "both": None}))
    logger = BufferedMLFlowLogger("e", run_id=run)
    for name, step, value in history:
        logger.log_metrics({name: value}, step)
    logger.finalize("success")
    assert gap(client) == ("diverged" if is_diverged else None)
    assert ("adam, b0 = 0.1: seed 1 diverged" in text_table(collect(client, "e"))) == is_diverged


@pytest.mark.parametrize(("asked", "expected"), [(None, "val/wer"), ("val/loss", "val/loss")])
def test_points_that_diverged_before_they_had_a_value_are_a_table(
    client: MlflowClient, asked: str | None, expected: str
) -> None:
    run = write_point(client, write_parent(client), POINT, None, {"epoch": {0: 0.0}})
    client.set_tag(run, "adaloss.monitors", json.dumps({"val/wer": "min"}))
    client.set_tag(run, "non_finite", "val/loss (step 0, to the end at step 9)")
    results = collect(client, "e", asked)
    assert results.metric == expected
    assert "adam, b0 = 0.1: seed 1 diverged" in text_table(results)
    with pytest.raises(SweepError, match=r"Unknown metric 'val/los'"):
        collect(client, "e", "val/los")


@pytest.mark.parametrize("name", ["val/loss", "val/wer", "test/acc"])
def test_a_nan_that_another_logger_has_stored_is_a_divergence(client: MlflowClient, name: str) -> None:
    run = write_point(client, write_parent(client), POINT, 0.9, {name: {9: NAN}})
    client.set_tag(run, "adaloss.monitors", json.dumps({"val/wer": "min"}))
    assert gap(client) == "diverged"


@pytest.mark.parametrize(("last", "expected"), [(30, None), (20, "diverged")])
def test_a_run_that_was_resumed_and_recovered_counts(client: MlflowClient, last: int, expected: str | None) -> None:
    run = write_point(client, write_parent(client), POINT, 0.9, {"train/loss": {last: 0.1}})
    client.set_tag(run, "non_finite", "train/loss (step 10, to the end at step 25)")
    assert gap(client) == expected


def write_wers(client: MlflowClient, monitors: str | None, metric: str = "test/wer") -> None:
    """adaloss has 0.1 and 0.2, adam 0.3 and 0.4."""
    parent = write_parent(client)
    for place, (method, b0) in enumerate([("adaloss", "0.1"), ("adaloss", "10"), ("adam", "0.1"), ("adam", "10")]):
        params = SWEEP | {"sweep.seeds": "1", "method": method, "b0": b0, "seed": "1"}
        run = write_point(client, parent, params, None, {metric: {9: 0.1 * (place + 1)}})
        if monitors is not None:
            client.set_tag(run, "adaloss.monitors", monitors)


@pytest.mark.parametrize(
    ("mode", "monitors", "metric", "best", "said"),
    [
        ("min", '{"test/score": "max"}', "test/score", "adaloss", "Lower is better: asked for with --minimize."),
        ("max", '{"val/wer": "min"}', "test/wer", "adam", "Higher is better: asked for with --maximize."),
        (None, '{"val/score": "min"}', "test/score", "adaloss", "the runs monitor val/score with mode min."),
        (None, '{"val_score_epoch": "min", "score": "max"}', "score", "adam", "the runs monitor score with mode max."),
        (None, '{"val/score": "min", "test/score_epoch": "max"}', "score", "adam", "a guess from the name score;"),
        (None, '{"val/acc": "max"}', "test/wer", "adaloss", "a guess from the name test/wer; --maximize"),
        (None, '{"score": null, "val/score": "min"}', "score", "adam", "a guess from the name score;"),
        (None, "not JSON", "test/score", "adam", "Higher is better: a guess from the name test/score; --minimize says"),
        (None, None, "test/wer", "adaloss", "a guess from the name test/wer"),
    ],
)  # fmt: skip
def test_the_direction_is_the_users_then_the_monitors_then_the_names(
    client: MlflowClient, mode: str | None, monitors: str | None, metric: str, best: str, said: str
) -> None:
    write_wers(client, monitors, metric)
    results = collect(client, "e", metric, mode=mode)
    rows = robustness(results)
    is_lower = best == "adaloss"
    assert (rows["adaloss"].best, rows["adam"].worst) == pytest.approx((0.1, 0.4) if is_lower else (0.2, 0.3))
    word = "lower is better" if is_lower else "higher is better"
    for table in (text_table(results), markdown_table(results)):
        assert said in table
        assert f"{metric}, {word}, " in table.splitlines()[0]
    assert word in draw(results).axes[0].get_title(loc="left")


SMALL_IS_GOOD = """val/loss test_loss wer val/cer valid.nll fid test/brier_score mape rmse val_mae_epoch perplexity ppl
top1_err top5Error WordErrorRate val/bpc BrierLoss negative_log_likelihood cross_entropy
neg_log_prob val/neg_elbo false_negative_rate false_negative_error loss_neg"""
LARGE_IS_GOOD = """val/acc f1 bleu adaloss/b maestro power r2 neg_mean_squared_error psnr certainty
val/neg_mse log_likelihood test/f1_negative test/acc_neg test/negative_predictive_value test/true_negative_rate"""


@pytest.mark.parametrize(("names", "expected"), [(SMALL_IS_GOOD, True), (LARGE_IS_GOOD, False)])
def test_what_a_name_tells_of_the_direction(names: str, expected: bool) -> None:
    assert [name for name in names.split() if is_lower_better(name) != expected] == []


@pytest.mark.parametrize(
    ("names", "monitors", "expected"),
    [
        (["val/acc", "test/acc", "val/loss"], '{"val/loss": "min"}', "test/acc"),
        (["val_loss", "val_acc"], None, "val_acc"),
        (["val_loss", "val_wer"], '{"val_wer": "min"}', "val_wer"),
        (["val/loss", "val/wer", "test/wer"], '{"val/wer": "min"}', "test/wer"),
        (["val/loss", "epoch"], '{"gone": "min"}', "val/loss"),
        (["val_loss", "val_wer"], '{"val_wer": null}', "val_wer"),  # two callbacks contradict each other
    ],
)
def test_what_is_compared_unless_a_metric_is_named(
    client: MlflowClient, names: list[str], monitors: str | None, expected: str
) -> None:
    run = write_point(client, write_parent(client), POINT, None, {name: {0: 0.5} for name in names})
    client.set_tag(run, "adaloss.monitors", monitors or "{}")
    assert collect(client, "e").metric == expected


def test_without_a_metric_to_compare_those_that_there_are_are_listed(client: MlflowClient) -> None:
    write_point(client, write_parent(client), POINT, None, {"score": {0: 0.5}, "epoch": {0: 1.0}})
    with pytest.raises(SweepError, match=r"No run in experiment 'e' has one of test/acc, .*--metric.*: epoch, score\."):
        collect(client, "e")
    assert collect(client, "e", "score").cells["adam", 0.1].values == [0.5]


@pytest.mark.parametrize(
    ("metric", "tags", "said"),
    [
        ("val/loss", [None, None], "the last that its run logged, not the best"),
        ("test/acc", ["best", "best"], "with the weights of the best epoch"),
        ("test/acc", ["last", "last"], "with the weights of the last epoch"),
        ("test/acc", ["best", None], "of the best or of the last epoch, as the run has tested it"),
    ],
)
def test_the_table_says_of_which_epoch_the_values_are(
    client: MlflowClient, metric: str, tags: list[str | None], said: str
) -> None:
    parent = write_parent(client)
    for seed, tag in zip("12", tags, strict=True):
        run = write_point(client, parent, POINT | {"seed": seed}, 0.9)
        if tag:
            client.set_tag(run, "adaloss.tested", tag)
    assert said in text_table(collect(client, "e", metric))


def test_the_options_reach_the_report(client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    write_wers(client, None)
    assert main(["report", "--experiment", "e", "--metric", "test/wer", "--maximize"]) == 0
    assert "Higher is better: asked for with --maximize." in capsys.readouterr().out
    assert main(["report", "--experiment", "e", "--minimize", "--maximize"]) == 2
