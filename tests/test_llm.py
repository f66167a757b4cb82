"""The trainer of language models: what it relies on in TRL, what it refuses, logs and weighs.

Here too is what the other tests of language models share: a tokenizer, models, data and settings, all made in code.
"""

import copy
import functools
import math
import random
import re
import warnings
from dataclasses import asdict, fields

import pytest
import torch

pytest.importorskip("trl", minversion="1.16", reason="language models need the extra 'llm'")
pytest.importorskip("peft", reason="language models need the extra 'llm'")

import trl
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from didsim import OBJECTIVES, objective, register_objective
from didsim.llm import TESTED_TRL, PairCollator, PreferenceTrainer
from didsim.llm._trainer import UNREAD

pytestmark = [
    pytest.mark.llm,
    # TRL calls transformers by the names of its version 5
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning"),
]
disable_progress_bar()

LETTERS = "abcdefgh"
SPECIAL = ("<unk>", "<pad>", "<s>", "</s>")


@functools.cache
def tokenizer():
    """One token a letter, with an end after each response."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator([" ".join(LETTERS)], trainers.WordLevelTrainer(special_tokens=list(SPECIAL)))
    unk, pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=unk, pad_token=pad, bos_token=bos, eos_token=eos)


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}


def language_model(seed=0, scale=6.0):
    """A tiny Llama whose next-token distributions are far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        **SIZES,
        **IDS,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return model


def words(rng, low, high):
    return " ".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high)))


def rows(count=32, seed=0, weights=None):
    """Pairs whose prompts and responses differ in length."""
    rng = random.Random(seed)
    found = [
        {"prompt": words(rng, 1, 5), "chosen": " " + words(rng, 0, 7), "rejected": " " + words(rng, 0, 7)}
        for _ in range(count)
    ]
    for row, weight in zip(found, weights or [], strict=False):
        row["weight"] = weight
    return found


def settings(folder, kind=DPOConfig, **changes):
    """Plain steps of equal size, with everything logged at each."""
    plain = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    return kind(**{**plain, **changes})


def reference_model(seed=1):
    """A reference near the model, but not the model."""
    model = language_model()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def trainer_of(loss, folder, *, model=None, reference=None, data=None, changes=None, **others):
    """Our trainer with an objective; TRL's own if there is none."""
    model = language_model() if model is None else model
    data = Dataset.from_list(rows()) if data is None else data
    arguments = {"args": settings(folder, **(changes or {})), "train_dataset": data, "processing_class": tokenizer()}
    if loss is None:
        trainer = DPOTrainer(model, reference, **arguments, **others)
    else:
        trainer = PreferenceTrainer(model, reference, objective=loss, **arguments, **others)
    trainer.remove_callback(PrinterCallback)
    return trainer


def batch_of(trainer, count=None):
    """The first pairs of the data, as the trainer sees them."""
    data = trainer.train_dataset
    names = {"prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps", "weight"}
    kept = data.select(range(len(data) if count is None else count)).select_columns(
        [name for name in data.column_names if name in names]
    )
    return dict(trainer.data_collator(list(kept)))


def loss_and_gradient(trainer, batch, model=None):
    """What one call of compute_loss gives, by the name of each parameter."""
    model = trainer.model if model is None else model
    model.zero_grad()
    model.train()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradient = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    model.zero_grad()
    return float(loss.detach()), gradient


def largest_difference(one, other):
    """Of two dictionaries of tensors, relative to the largest entry of the second."""
    assert one.keys() == other.keys()
    scale = max(float(part.abs().max()) for part in other.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / scale


def steps_of(trainer):
    """Train, and return what was logged at each step."""
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


# --- what is relied on in TRL -------------------------------------------------------------------------------


def test_the_installed_trl_is_one_that_was_tested():
    assert trl.__version__.rsplit(".", 1)[0] in TESTED_TRL
    assert trl.__version__.startswith("1.16.")


@pytest.fixture(scope="module")
def trls(tmp_path_factory):
    """TRL's own trainer."""
    return trainer_of(None, tmp_path_factory.mktemp("trl"), reference=reference_model())


def test_trls_batch_has_chosen_above_rejected_responses_padded_on_the_right(trls):
    collator = trls.data_collator
    assert type(collator) is DataCollatorForPreference
    examples = [
        {"prompt_ids": [4, 5, 6], "chosen_ids": [7, 8], "rejected_ids": [9]},
        {"prompt_ids": [4], "chosen_ids": [5], "rejected_ids": [6, 7]},
    ]
    batch = collator(examples)
    assert {name: part.tolist() for name, part in batch.items()} == {
        "input_ids": [[4, 5, 6, 7, 8], [4, 5, 1, 1, 1], [4, 5, 6, 9, 1], [4, 6, 7, 1, 1]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]],
        "completion_mask": [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 1, 0, 0]],
    }
    sums = [{**example, "ref_chosen_logps": -1.5, "ref_rejected_logps": -2.5} for example in examples]
    batch = collator(sums)
    assert batch["ref_chosen_logps"].tolist() == [-1.5, -1.5]
    assert batch["ref_rejected_logps"].tolist() == [-2.5, -2.5]


def test_trls_data_columns_and_attributes_are_there(trls):
    assert {"prompt_ids", "chosen_ids", "rejected_ids"} <= set(trls.train_dataset.column_names)
    assert all(row["chosen_ids"][-1] == row["rejected_ids"][-1] == IDS["eos_token_id"] for row in trls.train_dataset)
    assert trls._tokenizer is tokenizer()
    assert trls._tp_size == 1
    assert trls.aux_loss_enabled is False
    assert trls.router_aux_loss_coef == 0.0
    assert trls._total_train_tokens == 0
    assert set(trls._metrics) == {"train", "eval"}
    assert trls._metrics["train"]["anything"] == []
    assert trls.precompute_ref_logps is False
    assert trls.loss_is_scaled_for_ga is False
    assert isinstance(trls.ref_model, LlamaForCausalLM)
    trls._signature_columns = None
    trls._set_signature_columns_if_needed()
    assert {"prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps"} == set(
        trls._signature_columns
    )


def test_trls_loss_reads_no_more_settings_than_those_that_must_be_left_alone():
    """A field that TRL's loss reads, and that is neither refused nor served, would be ignored in silence."""
    ours = {field.name for field in fields(DPOConfig)} - {field.name for field in fields(TrainingArguments)}
    data = {
        *("max_length", "truncation_mode", "padding_free", "pad_token", "pad_to_multiple_of", "dataset_num_proc"),
        *("precompute_ref_log_probs", "precompute_ref_batch_size"),
    }
    models = {
        *("model_init_kwargs", "trust_remote_code", "disable_dropout", "activation_offloading"),
        *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef"),
    }
    assert set(UNREAD) <= ours
    assert ours == {*UNREAD, *data, *models}


def test_the_fused_head_answers_as_the_model_does(trls):
    batch = batch_of(trls, 4)
    mask = batch["completion_mask"][:, 1:].bool()
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        fused = trls.model(**given, use_cache=False, labels=labels, fused_lm_head=True)
        logits = language_model()(**given).logits[:, :-1]
        hidden = language_model().base_model(**given).last_hidden_state
    log_p = logits.log_softmax(-1)
    taken = log_p.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    want = {
        "log_probs": taken,
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "mean_logits": logits.mean(-1),
        "is_top1": logits.argmax(-1) == batch["input_ids"][:, 1:],
    }
    for name, values in want.items():
        got = getattr(fused, name)
        assert got.shape == mask.shape, name
        torch.testing.assert_close(got, values.masked_fill(~mask, 0), rtol=1e-5, atol=1e-5, msg=name)
    assert hidden.shape[:2] == batch["input_ids"].shape
    torch.testing.assert_close(trls.model.get_output_embeddings()(hidden)[:, :-1], logits)


def test_our_batches_are_trls(tmp_path, trls):
    ours = trainer_of("dpo", tmp_path, reference=reference_model())
    assert type(ours.data_collator) is PairCollator
    assert {field.name for field in fields(PairCollator)} == {field.name for field in fields(type(trls.data_collator))}
    one, other = (batch_of(trainer, 5) for trainer in (ours, trls))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_settings_of_the_collator_are_kept(tmp_path):
    changes = {"max_length": 9, "pad_to_multiple_of": 5}
    collators = [
        trainer_of(loss, tmp_path, reference=reference_model(), changes=changes).data_collator for loss in ("dpo", None)
    ]
    assert asdict(collators[0]) == asdict(collators[1])
    assert collators[0].max_length == 9


def test_a_collator_of_ones_own_is_kept(tmp_path, trls):
    def collate(examples):
        return trls.data_collator(examples)

    assert trainer_of("dpo", tmp_path, data_collator=collate).data_collator is collate


# --- what is refused ----------------------------------------------------------------------------------------


def test_what_a_batch_cannot_offer_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match=re.compile("mi_dpo.*fixed prior", re.DOTALL)) as refusal:
        trainer_of(objective("mi_dpo", prior="given"), tmp_path)
    assert "didsim.train does" in str(refusal.value)


def test_a_name_that_is_none_is_refused_with_the_names_that_are(tmp_path):
    with pytest.raises(ValueError, match="dpoo") as refusal:
        trainer_of("dpoo", tmp_path)
    assert "dpo" in str(refusal.value).replace("dpoo", "")


@pytest.mark.parametrize("wrong", [objective, 3, None, OBJECTIVES["dpo"]], ids=["function", "number", "none", "record"])
def test_what_is_no_objective_is_refused(wrong, tmp_path):
    with pytest.raises(TypeError, match=r"objective.*a name or an objective\(…\)"):
        PreferenceTrainer(
            language_model(), objective=wrong, args=settings(tmp_path), train_dataset=Dataset.from_list(rows())
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.5},
        {"beta": 0.0},
        {"loss_type": "ipo"},
        {"loss_type": ["sigmoid", "hinge"]},
        {"loss_weights": [0.5]},
        {"label_smoothing": 0.1},
        {"ld_alpha": 0.5},
        {"ld_alpha": 0.0},
        {"f_divergence_type": "js_divergence"},
        {"f_alpha_divergence_coef": 1.5},
        {"use_weighting": True},
        {"discopop_tau": 0.1},
    ],
    ids=str,
)
def test_settings_that_only_trls_losses_read_are_refused_by_name(changes, tmp_path):
    [field] = changes
    with pytest.raises(ValueError, match=rf"args\.{field}\b"):
        trainer_of("dpo", tmp_path, changes=changes)


def test_settings_at_their_defaults_are_accepted_however_they_are_written(tmp_path):
    trainer_of("dpo", tmp_path, changes={"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0})
    trainer_of("dpo", tmp_path, changes={"loss_type": ["sigmoid"], "loss_weights": None, "ld_alpha": None})


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_empty_response_is_refused_by_its_pair_and_side(side, tmp_path):
    trainer = trainer_of("dpo", tmp_path)
    examples = [{"prompt_ids": [4, 5], "chosen_ids": [6, 3], "rejected_ids": [7, 3]} for _ in range(3)]
    examples[1] = {**examples[1], f"{side}_ids": []}
    with pytest.raises(ValueError, match=f"{side} response of pair 1 .*at least one token") as refusal:
        trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    assert "max_length" in str(refusal.value)


def test_a_response_that_truncation_leaves_empty_is_refused(tmp_path):
    collator = PairCollator(pad_token_id=1, max_length=2)
    trainer = trainer_of("simpo", tmp_path, data_collator=collator)
    examples = [
        {"prompt_ids": [4], "chosen_ids": [6, 3], "rejected_ids": [7, 3]},
        {"prompt_ids": [4, 5], "chosen_ids": [6, 3], "rejected_ids": [7, 3]},
    ]
    with pytest.raises(ValueError, match="chosen response of pair 1 "):
        trainer.compute_loss(trainer.model, trainer.data_collator(examples))


def test_kto_with_one_pair_is_refused_with_the_setting_to_change(tmp_path):
    with pytest.raises(ValueError, match=r"per_device_train_batch_size must be at least 2; got 1"):
        trainer_of("kto", tmp_path, changes={"per_device_train_batch_size": 1})


@pytest.mark.parametrize("name", ["tdpo1", "wpo", "ld_dpo", "kto", "sparse_po"])
def test_precomputed_sums_are_refused_where_they_are_not_enough(name, tmp_path):
    with pytest.raises(ValueError, match=f"precompute_ref_log_probs.*{name}"):
        trainer_of(name, tmp_path, changes={"precompute_ref_log_probs": True})


def capped_model(cap):
    torch.manual_seed(0)
    shape = {**SIZES, "head_dim": 8, "num_key_value_heads": 1, "sliding_window": 16, "query_pre_attn_scalar": 8}
    return Gemma2ForCausalLM(
        Gemma2Config(vocab_size=12, max_position_embeddings=64, final_logit_softcapping=cap, **shape, **IDS)
    )


@pytest.mark.parametrize("name", ["tdpo1", "wpo", "epsilon_dpo"])
def test_capped_logits_are_refused_where_whole_distributions_are_needed(name, tmp_path):
    with pytest.raises(ValueError, match=rf"final_logit_softcapping.*{name}"):
        trainer_of(name, tmp_path, model=capped_model(3.0))
    trainer_of(name, tmp_path, model=capped_model(None))


@pytest.mark.parametrize("name", ["dpo", "ld_dpo"])
def test_capped_logits_are_served_where_the_fused_head_is_enough(name, tmp_path):
    ours = trainer_of(objective(name, beta=0.1), tmp_path, model=capped_model(3.0), reference=capped_model(3.0))
    batch = batch_of(ours, 4)
    with torch.no_grad():
        logits = capped_model(3.0)(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    taken = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    want = taken.masked_fill(batch["completion_mask"][:, 1:] == 0, 0.0).sum(1)
    ours.compute_loss(ours.model, batch)
    assert ours._metrics["train"]["logps/chosen"] == pytest.approx([float(want[:4].mean())], rel=1e-5)


# --- what is logged -----------------------------------------------------------------------------------------


def test_displacement_and_divergence_are_those_of_the_log_ratios(tmp_path):
    trainer = trainer_of("simpo", tmp_path, reference=reference_model())
    batch = batch_of(trainer, 7)
    trainer.compute_loss(trainer.model, batch)
    sums = []
    for model in (language_model(), reference_model()):
        with torch.no_grad():
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        taken = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        sums.append(taken.masked_fill(batch["completion_mask"][:, 1:] == 0, 0.0).sum(1))
    chosen, rejected = (sums[0] - sums[1]).chunk(2)
    length = batch["completion_mask"].sum(1)
    rewards = (2.0 * sums[0] / length).chunk(2)
    want = {
        "displacement/chosen": chosen.mean(),
        "displacement/rejected": rejected.mean(),
        "displacement/chosen_share": (chosen < 0).float().mean(),
        "displacement/rejected_share": (rejected < 0).float().mean(),
        "kl/ref_policy": -chosen.mean(),
        "logps/chosen": sums[0][:7].mean(),
        "logps/rejected": sums[0][7:].mean(),
        "rewards/chosen": rewards[0].mean(),
        "rewards/rejected": rewards[1].mean(),
        "rewards/margins": (rewards[0] - rewards[1]).mean(),
        "rewards/accuracies": (rewards[0] > rewards[1]).float().mean(),
    }
    got = trainer._metrics["train"]
    assert {name: got[name] for name in want} == {name: pytest.approx([float(x)], abs=1e-5) for name, x in want.items()}
    assert 0.0 < got["displacement/chosen_share"][0] < 1.0


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "dpo_pg"])
def test_everything_logged_of_every_objective_is_a_finite_number(name, tmp_path):
    trainer = trainer_of(name, tmp_path, reference=reference_model())
    trainer.compute_loss(trainer.model, batch_of(trainer, 4))
    assert {key: value for key, value in trainer._metrics["train"].items() if not all(map(math.isfinite, value))} == {}


def test_predictions_and_metrics_of_ones_own_get_logits_as_from_trl(tmp_path):
    """A Trainer asks for outputs where `compute_metrics` is given, and in `predict`."""
    found = []
    for loss in (objective("dpo", beta=0.1), None):
        trainer = trainer_of(
            loss,
            tmp_path,
            reference=reference_model(),
            eval_dataset=Dataset.from_list(rows(4)),
            compute_metrics=lambda output: {
                "shape": output.predictions.shape,
                "sum": float(output.predictions[0].sum()),
            },
            changes={"per_device_eval_batch_size": 4},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            found.append(trainer.evaluate())
    ours, trls = found
    assert ours["eval_shape"] == trls["eval_shape"]
    assert ours["eval_sum"] == pytest.approx(trls["eval_sum"], rel=1e-4, abs=1e-4)
    assert ours["eval_loss"] == pytest.approx(trls["eval_loss"], rel=1e-5)


def mixture():
    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5}
    config = MixtralConfig(vocab_size=12, num_key_value_heads=1, max_position_embeddings=64, **experts, **SIZES, **IDS)
    return MixtralForCausalLM(config)


def test_a_mixture_of_experts_balances_its_load_as_under_trl(tmp_path):
    found = []
    for loss in (objective("dpo", beta=0.1), None):
        trainer = trainer_of(loss, tmp_path, model=mixture(), reference=mixture(), changes={"max_steps": 3})
        found.append(steps_of(trainer))
    ours, trls = found
    for name in ("loss", "grad_norm", "aux_loss"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in trls], rel=1e-5), name


# --- weights ------------------------------------------------------------------------------------------------


def repeated(data, weights):
    return [row for row, weight in zip(data, weights, strict=True) for _ in range(int(weight))]


@pytest.mark.parametrize("name", ["dpo", "simpo", "tdpo1", "aot", "aot_unpaired", "alpha_dpo", "beta_dpo", "rmipo"])
def test_a_pair_of_weight_2_is_that_pair_twice(name, tmp_path):
    weights = [1, 2, 0, 3, 1]
    data = rows(5)
    weighted = trainer_of(
        name, tmp_path / "one", reference=reference_model(), data=Dataset.from_list(rows(5, weights=weights))
    )
    plain = trainer_of(
        name, tmp_path / "two", reference=reference_model(), data=Dataset.from_list(repeated(data, weights))
    )
    one, other = (loss_and_gradient(trainer, batch_of(trainer)) for trainer in (weighted, plain))
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert largest_difference(one[1], other[1]) <= 1e-5


def test_weights_reach_the_loss_in_training(tmp_path):
    data = Dataset.from_list(rows(4, weights=[0.0, 1.0, 0.5, 2.0]))
    changes = {"max_steps": 1, "per_device_train_batch_size": 4}
    trainer = trainer_of("dpo", tmp_path, reference=reference_model(), data=data, changes=changes)
    [step] = steps_of(trainer)
    fresh = trainer_of("dpo", tmp_path, reference=reference_model(), data=data, changes=changes)
    batch = batch_of(fresh)
    assert batch["weight"].tolist() == [0.0, 1.0, 0.5, 2.0]
    assert step["loss"] == pytest.approx(loss_and_gradient(fresh, batch)[0], rel=1e-5)
    del batch["weight"]
    assert step["loss"] != pytest.approx(loss_and_gradient(fresh, batch)[0], rel=1e-3)


def test_equal_weights_are_no_weights(tmp_path):
    changes = {"max_steps": 4}
    steps = [
        steps_of(
            trainer_of("dpo", tmp_path, reference=reference_model(), data=Dataset.from_list(data), changes=changes)
        )
        for data in (rows(), rows(weights=[0.25] * 32))
    ]
    assert [row["loss"] for row in steps[0]] == pytest.approx([row["loss"] for row in steps[1]], rel=1e-6)


def test_weighted_batches_accumulate_to_one_large_weighted_batch(tmp_path):
    data = Dataset.from_list(rows(weights=[1.0 + row % 3 for row in range(32)]))
    steps = []
    for size, count in ((6, 1), (2, 3)):
        changes = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": count,
            "max_steps": 2,
            "learning_rate": 0.01,
        }
        trainer = trainer_of("dpo", tmp_path / str(size), reference=reference_model(), data=data, changes=changes)
        steps.append(steps_of(trainer))
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in steps[1]] == pytest.approx([row[name] for row in steps[0]], rel=1e-5), name


def test_weighted_data_may_be_evaluated_whose_reference_is_precomputed(tmp_path):
    data, other = (Dataset.from_list(rows(8, seed=seed, weights=[1.0, 2.0] * 4)) for seed in (0, 9))
    losses = []
    for precomputed in (True, False):
        changes = {"precompute_ref_log_probs": precomputed, "per_device_eval_batch_size": 8}
        trainer = trainer_of("dpo", tmp_path, reference=reference_model(), data=data, changes=changes)
        losses.append(trainer.evaluate(other)["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(weight, tmp_path):
    data = Dataset.from_list(rows(4, weights=[1.0, weight, 1.0, 1.0]))
    trainer = trainer_of("dpo", tmp_path, data=data, changes={"max_steps": 1})
    with pytest.raises(ValueError, match="weight"):
        trainer.train()


def test_a_batch_whose_weights_are_all_0_adds_nothing(tmp_path):
    """Such batches happen, where weights are sparse and batches small."""
    data = Dataset.from_list(rows(4, weights=[0.0] * 4))
    trainer = trainer_of("dpo", tmp_path, data=data, changes={"max_steps": 1})
    assert steps_of(trainer)[0]["grad_norm"] == 0.0


# --- data and models ----------------------------------------------------------------------------------------


def test_data_may_be_streamed(tmp_path):
    """The mean weight of a stream is not known, and taken to be 1."""
    data = rows(8, weights=[0.5, 1.5] * 4)
    changes = {"max_steps": 1, "per_device_train_batch_size": 8}
    steps = [
        steps_of(trainer_of("dpo", tmp_path, reference=reference_model(), data=kind, changes=changes))
        for kind in (Dataset.from_list(data), Dataset.from_list(data).to_iterable_dataset())
    ]
    assert steps[0][0]["loss"] == pytest.approx(steps[1][0]["loss"], rel=1e-6)


def test_a_model_may_be_given_by_its_folder(tmp_path):
    language_model().save_pretrained(tmp_path / "model")
    changes = {"max_steps": 2}
    by_name = trainer_of("dpo", tmp_path / "one", model=str(tmp_path / "model"), changes=changes)
    by_itself = trainer_of("dpo", tmp_path / "two", changes=changes)
    steps = [steps_of(trainer) for trainer in (by_name, by_itself)]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in steps[0]] == pytest.approx([row[name] for row in steps[1]], rel=1e-6)


def test_an_objective_of_ones_own_trains(tmp_path):
    @register_objective(needs={"reference"})
    def cubic_of_a_test(pairs, *, beta=1.0):
        return torch.relu(1.0 - beta * (pairs.chosen.log_ratio - pairs.rejected.log_ratio)) ** 3

    try:
        trainer = trainer_of(objective("cubic_of_a_test", beta=0.1), tmp_path, changes={"max_steps": 2})
        first, second = steps_of(trainer)
    finally:
        OBJECTIVES.remove("cubic_of_a_test")
    assert first["loss"] == pytest.approx(1.0, rel=1e-6)
    assert second["grad_norm"] > 0.0


def test_kto_trains_through_the_last_batch_of_an_epoch(tmp_path):
    """Five pairs by four: the second batch has one pair only."""
    changes = {"max_steps": 3, "learning_rate": 0.01}
    trainer = trainer_of("kto", tmp_path, data=Dataset.from_list(rows(5)), changes=changes)
    assert len(steps_of(trainer)) == 3


def test_a_tokenizer_without_a_beginning_starts_responses_by_the_end(tmp_path):
    trainer = trainer_of("rmipo", tmp_path, reference=reference_model())
    trainer._tokenizer = copy.deepcopy(tokenizer())
    trainer._tokenizer.bos_token = None
    batch = batch_of(trainer, 4)
    loss_and_gradient(trainer, batch)
    ids, first = batch["input_ids"], []
    handle = trainer.model.base_model.register_forward_pre_hook(
        lambda _module, _given, named: first.append(named["input_ids"][:, 0].tolist()), with_kwargs=True
    )
    loss_and_gradient(trainer, batch)
    handle.remove()
    assert [IDS["eos_token_id"]] * 8 in first
    assert ids[:, 0].tolist() in first


# --- several processes --------------------------------------------------------------------------------------


def test_a_batch_of_tokens_is_not_gathered_from_several_processes(tmp_path):
    loss = objective("alpha_dpo", margin="tdpo")
    trainer = trainer_of(loss, tmp_path, reference=reference_model())
    batch = batch_of(trainer, 4)
    trainer.compute_loss(trainer.model, batch)
    trainer.accelerator.state._shared_state["num_processes"] = 2
    try:
        with pytest.raises(ValueError, match="tokens"):
            trainer.compute_loss(trainer.model, batch)
    finally:
        trainer.accelerator.state._shared_state["num_processes"] = 1
