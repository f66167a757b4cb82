"""Twenty steps of training with our trainer and with TRL's own: the same losses, gradient norms, weights and logs."""

import pytest
import test_llm
import torch
from datasets import Dataset
from test_llm import language_model, reference_model, rows, steps_of, trainer_of

from didsim import objective

pytestmark = test_llm.pytestmark

ROUNDING = 1e-5
"""Of float32, over twenty steps; what is seen is below a tenth of it."""

SAME = {
    "dpo": ({"beta": 0.3}, {"loss_type": "sigmoid"}),
    "ipo": ({"tau": 0.3, "aggregation": "mean"}, {"loss_type": "ipo"}),
    "hinge": ({"beta": 0.3}, {"loss_type": "hinge"}),
    "nca": ({"beta": 0.3}, {"loss_type": "nca_pair"}),
    "bco": ({"beta": 0.3}, {"loss_type": "bco_pair"}),
    "sppo": ({"beta": 0.3}, {"loss_type": "sppo_hard"}),
    "apo_zero": ({"beta": 0.3}, {"loss_type": "apo_zero"}),
    "apo_down": ({"beta": 0.3}, {"loss_type": "apo_down"}),
    "robust_dpo": ({"beta": 0.3, "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
    "exo": ({"beta": 0.3, "label_smoothing": 0.01}, {"loss_type": "exo_pair", "label_smoothing": 0.01}),
    "discopop": ({"beta": 0.3, "tau": 0.05}, {"loss_type": "discopop", "discopop_tau": 0.05}),
    "dpo_norm": ({"beta": 0.3}, {"loss_type": "sigmoid_norm"}),
    "aot": ({"beta": 0.3}, {"loss_type": "aot"}),
    "aot_unpaired": ({"beta": 0.3}, {"loss_type": "aot_unpaired"}),
    "wpo": ({"beta": 0.3}, {"loss_type": "sigmoid", "use_weighting": True}),
    "ld_dpo": ({"beta": 0.3, "ld_alpha": 0.4}, {"loss_type": "sigmoid", "ld_alpha": 0.4}),
    **{
        f"f_dpo {ours}": ({"beta": 0.3, "divergence": ours, **more}, {"loss_type": "sigmoid", **trls})
        for ours, more, trls in (
            ("forward_kl", {}, {"f_divergence_type": "forward_kl"}),
            ("js", {}, {"f_divergence_type": "js_divergence"}),
            (
                "alpha",
                {"alpha": 0.5},
                {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
            ),
        )
    },
}
"""Ours: our hyperparameters, and TRL's settings beside β."""
STEEP = {"discopop": 1e-2, "sppo": 2e-3, "f_dpo forward_kl": 2e-3, "f_dpo alpha": 1e-2}
"""Smaller learning rates for losses that diverge, or amplify rounding, in TRL as here."""

FEWER_STEPS = {"aot", "aot_unpaired", "wpo", "ld_dpo", "f_dpo forward_kl", "f_dpo js", "f_dpo alpha"}


def both(folder, name, ours=None, others=None, **changes):
    """The same training by our trainer and by TRL's."""
    hyperparameters, trl_settings = SAME[name]
    steps = {"max_steps": 8 if name in FEWER_STEPS else 20, "learning_rate": STEEP.get(name, 0.05)}
    changes = {**steps, **changes}
    loss = objective(name.split()[0], **hyperparameters)
    ours, trls = {**changes, **(ours or {})}, {**changes, "beta": 0.3, **trl_settings}
    return tuple(
        trainer_of(what, folder / where, reference=reference_model(), changes=which, **(others or {}))
        for what, where, which in ((loss, "ours", ours), (None, "trl", trls))
    )


def assert_same_training(mine, theirs, tolerance=ROUNDING):
    got, want = steps_of(mine), steps_of(theirs)
    assert len(got) == len(want) > 2
    for name in ("loss", "grad_norm"):
        ours, trls = ([row[name] for row in found] for found in (got, want))
        assert ours == pytest.approx(trls, rel=tolerance, abs=tolerance), name
    assert max(want, key=lambda row: row["grad_norm"])["grad_norm"] > 1e-3
    for (name, ours), trls in zip(mine.model.named_parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(ours, trls, rtol=tolerance, atol=tolerance, msg=name)
    return got, want


@pytest.mark.parametrize("name", SAME)
def test_twenty_steps_have_trls_losses_gradient_norms_and_weights(name, tmp_path):
    assert_same_training(*both(tmp_path, name))


LOGGED = (
    *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
    *("logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected"),
    *("entropy", "mean_token_accuracy", "num_tokens"),
)


def test_what_trl_logs_is_logged_under_the_same_names_with_the_same_values(tmp_path):
    data = Dataset.from_list(rows(16, seed=3))
    changes = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 3}
    mine, theirs = both(tmp_path, "dpo", others={"eval_dataset": data}, **changes)
    got, want = assert_same_training(mine, theirs)
    assert set(LOGGED) <= set(want[0])
    for ours, trls in zip(got, want, strict=True):
        assert {name: ours[name] for name in LOGGED} == pytest.approx(
            {name: trls[name] for name in LOGGED}, rel=ROUNDING, abs=ROUNDING
        )
        assert set(trls) <= set(ours)
    evaluations = [[row for row in trainer.state.log_history if "eval_loss" in row] for trainer in (mine, theirs)]
    assert len(evaluations[1]) == 2
    names = ["eval_loss", *(f"eval_{name}" for name in LOGGED)]
    for ours, trls in zip(*evaluations, strict=True):
        assert {name: ours[name] for name in names} == pytest.approx(
            {name: trls[name] for name in names}, rel=ROUNDING, abs=ROUNDING
        )


def test_what_is_logged_is_a_mean_over_accumulated_batches_as_in_trl(tmp_path):
    mine, theirs = both(tmp_path, "dpo", max_steps=4, gradient_accumulation_steps=3, per_device_train_batch_size=2)
    got, want = assert_same_training(mine, theirs)
    for ours, trls in zip(got, want, strict=True):
        assert {name: ours[name] for name in LOGGED} == pytest.approx(
            {name: trls[name] for name in LOGGED}, rel=ROUNDING, abs=ROUNDING
        )


def test_gradient_clipping_decay_and_adam_are_trls(tmp_path):
    changes = {"optim": "adamw_torch", "max_grad_norm": 0.5, "learning_rate": 1e-3, "weight_decay": 0.1}
    assert_same_training(*both(tmp_path, "dpo", lr_scheduler_type="cosine", warmup_steps=3, **changes), 1e-4)


def test_checkpointed_activations_change_nothing(tmp_path):
    mine, theirs = both(tmp_path, "wpo", ours={"activation_checkpointing": True})
    assert_same_training(mine, theirs)


def test_the_reference_of_a_model_that_is_given_is_that_model_before_training(tmp_path):
    loss = objective("dpo", beta=0.3)
    alone = trainer_of(loss, tmp_path / "alone", changes={"max_steps": 5})
    theirs = trainer_of(None, tmp_path / "trl", reference=language_model(), changes={"max_steps": 5, "beta": 0.3})
    got, _ = assert_same_training(alone, theirs)
    assert got[0]["rewards/margins"] == 0.0
    assert got[-1]["rewards/margins"] != 0.0
    for ours, before in zip(alone.ref_model.parameters(), language_model().parameters(), strict=True):
        assert torch.equal(ours, before)


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode:FutureWarning")
def test_truncation_of_either_end_is_trls(tmp_path):
    for mode in ("keep_start", "keep_end"):
        changes = {"max_length": 6, "truncation_mode": mode, "max_steps": 4}
        assert_same_training(*both(tmp_path / mode, "dpo", **changes))
