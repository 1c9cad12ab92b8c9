"""Lines of the matrix whose proof stands in another folder of the tests: node id -> the line."""

from tests.support.cells import Cell

B_BY_HAND = "the recurrence by hand, on the losses that `training_step` returned"
MANUAL = "Manual optimization"

ELSEWHERE: dict[str, Cell] = {
    "tests/callback/test_true_loss.py::test_b_grows_by_the_mean_loss_of_each_window_as_it_really_was": Cell(
        "Precision, accumulation and clipping", "accumulation longer than the epoch, short last windows", B_BY_HAND
    ),
    "tests/callback/test_true_loss.py::test_an_overflow_step_moves_nothing": Cell(
        "Precision, accumulation and clipping", "fp16 overflow steps with momentum, Adam and a wrapped base", B_BY_HAND
    ),
    "tests/callback/test_true_loss.py::test_a_non_finite_loss_costs_its_step_and_nothing_else": Cell(
        "Overrides, modules and losses", "a loss that is not finite costs its step and nothing else", B_BY_HAND
    ),
    "tests/callback/test_true_loss.py::test_a_training_step_that_returns_none_uses_no_stale_loss": Cell(
        "Overrides, modules and losses", "`training_step` that returns None", B_BY_HAND
    ),
    "tests/callback/test_setup.py::test_backbone_finetuning_adds_groups_in_mid_training": Cell(
        "Other callbacks", "`BackboneFinetuning`: groups that appear in mid-training start their own b", B_BY_HAND
    ),
    "tests/callback/test_manual.py::test_each_optimizer_gets_the_loss_of_its_own_step": Cell(
        MANUAL, "two optimizers at different frequencies; closures, `step(loss=...)`, `record_loss`; fp16", B_BY_HAND
    ),
    "tests/callback/test_manual.py::test_a_gan_whose_networks_share_gradients": Cell(
        MANUAL, "a GAN whose first loss flows through both networks", B_BY_HAND
    ),
    "tests/callback/test_manual.py::test_the_order_of_backwards_and_steps_does_not_matter": Cell(
        MANUAL, "backward, backward, step, step", B_BY_HAND
    ),
    "tests/callback/test_manual.py::test_accumulation_by_hand": Cell(
        MANUAL, "accumulation by hand", B_BY_HAND
    ),
    "tests/callback/test_manual.py::test_a_step_that_no_backward_reached_says_what_to_do": Cell(
        MANUAL, "a step that no backward reached", "the error, which names the three ways to give a loss", "refused"
    ),
    "tests/callback/test_true_loss.py::test_accumulation_by_overrides_counts": Cell(
        "Overrides, modules and losses",
        "`optimizer_zero_grad` and `optimizer_step` that add up the gradients of two batches", B_BY_HAND,
    ),
    "tests/callback/test_true_loss.py::test_a_closure_that_is_run_again_replaces_the_loss_of_the_first_try": Cell(
        "Overrides, modules and losses", "`optimizer_step` that runs its closure twice", B_BY_HAND
    ),
    "tests/callback/test_mid_training.py::test_momo_is_fed_the_true_loss_and_not_wrapped": Cell(
        "Overrides, modules and losses", "MoMo, which uses the loss itself: fed, not wrapped; fp16, accumulation of 2",
        "the mean of each window's losses",
    ),
    "tests/callback/test_mid_training.py::test_an_adaptive_optimizer_in_another_one_is_fed_and_not_adapted_twice": Cell(
        "Overrides, modules and losses", "an adaptive optimizer within another one, as in Lookahead", B_BY_HAND
    ),
    "tests/callback/test_mid_training.py::test_an_optimizer_replaced_in_mid_training_is_adapted_as_at_the_start": Cell(
        "Overrides, modules and losses", "an optimizer replaced in mid-training starts its own b", B_BY_HAND
    ),
    "tests/callback/test_mid_training.py::test_a_module_that_steps_an_optimizer_of_its_own_is_warned_once": Cell(
        "Overrides, modules and losses", "an optimizer that the module steps by itself is not adapted: a warning",
        "the warning", "limit",
    ),
    "tests/callback/test_manual.py::test_each_optimizer_gets_the_losses_in_its_gradients": Cell(
        MANUAL, "gradients in a flat buffer; `create_graph`; zeroed in place by the module; reentrant checkpoints; "
        "losses of other parameters; replaced parameters; batches left out after an error; losses of several numbers; "
        "unfrozen later; without Lightning's proxy", B_BY_HAND,
    ),
    "tests/distributed/test_whose_loss.py::test_each_optimizer_gets_the_losses_in_its_gradients": Cell(
        MANUAL, "several optimizers on 2 ranks: shared buckets, `toggle_model(sync_grad=...)`, parameters that one "
        "rank does not use, FSDP2 with and without gradient sync; MoMo", "the recurrence by hand, on the ranks' means",
    ),
    "tests/callback/test_manual.py::test_a_backward_that_lightning_did_not_announce_is_refused": Cell(
        MANUAL, "`loss.backward()` instead of `self.manual_backward(loss)`", "the error, which names the ways to give "
        "a loss", "refused",
    ),
    "tests/callback/test_current_values.py::test_values_are_those_of_the_last_step_in_every_hook": Cell(
        "Other callbacks", "`trainer.callback_metrics[\"adaloss/...\"]` in every hook, of the module and of callbacks "
        "before and after ours", "the optimizer itself",
    ),
    "tests/callback/test_mid_training.py::test_the_batch_size_is_scaled_without_the_callback": Cell(
        "Other callbacks", "`Tuner.scale_batch_size`, also under manual optimization", "b of the fit that follows"
    ),
    "tests/callback/test_mid_training.py::test_a_rate_that_the_training_moved_is_no_change_of_settings": Cell(
        "Interruption", "a resumed `ReduceLROnPlateau`, or a rate set by hand: no notice of changed settings",
        "the warnings",
    ),
    "tests/optim/test_schedulers.py::test_effective_rate_is_scheduled_eta_over_b": Cell(
        "Schedulers", "every scheduler of `torch.optim.lr_scheduler`, outside Lightning",
        "the same scheduler on torch's own optimizer",
    ),
    "tests/callback/test_rates.py::test_schedulers_and_groups_keep_their_ratios": Cell(
        "Schedulers", "`AdaLossCallback(lr=...)` rescales all groups and what schedulers of torch and timm took from "
        "them", "the schedule as configured, times the ratio",
    ),
    "tests/callback/test_setup.py::test_resume_is_bit_exact": Cell(
        "Interruption", "`fit(ckpt_path=...)` at the end of an epoch", "the same run undisturbed, bit for bit"
    ),
    "tests/callback/test_setup.py::test_a_checkpoint_without_the_callback_starts_b_at_b0": Cell(
        "Interruption", "a checkpoint of the optimizer as it was before: b starts at b0, with a notice", B_BY_HAND
    ),
    "tests/callback/test_setup.py::test_settings_of_the_checkpoint_win_and_a_warning_says_so": Cell(
        "Interruption", "other settings than the checkpoint's: its own win, with a warning", "the settings in force"
    ),
    "tests/callback/test_interruption.py::test_twenty_kills_change_nothing": Cell(
        "Interruption", "20 SIGKILLs at random moments of one training, each resumed, mostly in mid-epoch",
        "the same run undisturbed, bit for bit",
    ),
    "tests/callback/test_interruption.py::test_a_truncated_checkpoint_is_an_error_and_the_one_before_it_loads": Cell(
        "Interruption", "a truncated checkpoint is an error, and the one before it still loads", "the error"
    ),
    "tests/distributed/test_elastic.py::test_from_one_rank_to_two_and_back": Cell(
        "Interruption", "from 1 rank to 2 and back, by `fit(ckpt_path=...)`", "one process undisturbed"
    ),
    "tests/distributed/test_elastic.py::test_a_killed_worker_of_two_nodes_is_restarted": Cell(
        "Interruption", "`torchrun --nnodes 2`, one worker killed and restarted by the elastic agent",
        "one process undisturbed",
    ),
    "tests/optim/test_loss_feeding.py::test_grad_scaler": Cell(
        "Outside Lightning", "`GradScaler` with every method of the package and any pattern of overflows",
        "the same steps without a scaler",
    ),
    "tests/optim/test_device_path.py::test_compiled_step": Cell(
        "Outside Lightning", "a `torch.compile`d step: no new graph for each loss", "the same steps not compiled"
    ),
    "tests/callback/test_setup.py::test_refuses_before_the_first_step": Cell(
        "Set-up that is refused", "LBFGS, Rprop, no optimizer at all", "no batch was trained", "refused"
    ),
    "tests/callback/test_setup.py::test_refuses_to_be_there_twice": Cell(
        "Set-up that is refused", "two `AdaLossCallback`s in one trainer", "the error", "refused"
    ),
}  # fmt: skip
