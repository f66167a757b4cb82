"""What must change nothing: padding, accumulation, interruption, where the reference comes from, more processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_llm
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from test_llm import (
    batch_of,
    language_model,
    largest_difference,
    loss_and_gradient,
    reference_model,
    rows,
    steps_of,
    trainer_of,
)
from transformers import GPT2Config, GPT2LMHeadModel
from trl.trainer.utils import add_fused_lm_head

import didsim.llm._trainer
from didsim import objective
from didsim.llm._reading import mismatched, without_prompts

pytestmark = test_llm.pytestmark

ROUNDING = 1e-5

OF_EVERY_KIND = ("dpo", "dpo_norm", "kto", "rmipo", "tdpo1", "wpo", "ld_dpo", "alpha_dpo", "aot", "simpo")
"""Objectives that look at whole responses, lengths, other prompts, none, tokens, vocabularies and batches."""


def assert_same_steps(got, want, tolerance=ROUNDING):
    assert len(got) == len(want) > 0
    for name in ("loss", "grad_norm"):
        one, other = ([row[name] for row in steps] for steps in (got, want))
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance), name


def assert_same_weights(model, other, tolerance=ROUNDING):
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance, msg=name)


def pairs_seen(trainer, batch):
    """What the objective looks at, in one call of compute_loss."""
    seen, before = [], trainer._pairs
    trainer._pairs = lambda *parts: seen.append(before(*parts)) or seen[-1]
    loss_and_gradient(trainer, batch)
    trainer._pairs = before
    return seen


# --- padding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_the_amount_of_padding_changes_nothing(name, tmp_path):
    trainers = [
        trainer_of(name, tmp_path, reference=reference_model(), changes={"pad_to_multiple_of": multiple})
        for multiple in (None, 24)
    ]
    tight, wide = (batch_of(trainer, 6) for trainer in trainers)
    assert wide["input_ids"].shape[1] == 24 > tight["input_ids"].shape[1]
    (loss, gradient), (padded_loss, padded_gradient) = map(loss_and_gradient, trainers, (tight, wide))
    assert padded_loss == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert largest_difference(padded_gradient, gradient) <= ROUNDING


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_the_side_of_padding_changes_nothing(name, tmp_path):
    """TRL pads on the right; where positions count relative to each other only, a collator may pad on the left."""
    trainer = trainer_of(name, tmp_path, reference=reference_model())
    right = batch_of(trainer, 6)
    order = right["attention_mask"].argsort(dim=1, stable=True)
    left = {key: part.gather(1, order) for key, part in right.items()}
    assert not left["attention_mask"][:, 0].all()
    (loss, gradient), (other_loss, other_gradient) = (loss_and_gradient(trainer, part) for part in (right, left))
    assert other_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert largest_difference(other_gradient, gradient) <= 1e-4


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_what_stands_at_padded_positions_changes_nothing(name, tmp_path):
    trainer = trainer_of(name, tmp_path, reference=reference_model())
    batch = batch_of(trainer, 6)
    loss, gradient = loss_and_gradient(trainer, batch)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(padding, 5)}
    assert loss_and_gradient(trainer, other)[0] == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert largest_difference(loss_and_gradient(trainer, other)[1], gradient) <= ROUNDING


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_the_order_of_pairs_changes_nothing_but_whose_responses_are_mismatched(name, tmp_path):
    trainer = trainer_of(name, tmp_path, reference=reference_model())
    batch = batch_of(trainer, 6)
    # a rotation, which keeps the neighbours of each pair
    order = torch.tensor([2, 3, 4, 5, 0, 1])
    turned = {key: part[torch.cat([order, order + 6])] for key, part in batch.items()}
    (loss, gradient), (other_loss, other_gradient) = (loss_and_gradient(trainer, part) for part in (batch, turned))
    assert other_loss == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert largest_difference(other_gradient, gradient) <= ROUNDING


def batch_in_hand():
    """Two pairs: prompts of 2 and 1 tokens, responses of 1 and 2 tokens, 3 and 1."""
    return {
        "input_ids": torch.tensor([[4, 5, 6, 0, 0], [7, 8, 9, 0, 0], [4, 5, 10, 11, 3], [7, 9, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "completion_mask": torch.tensor([[0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]),
    }


def test_mismatched_responses_stand_behind_the_prompt_of_the_pair_before():
    turned = mismatched(batch_in_hand(), 1)
    assert turned["input_ids"].tolist() == [[4, 5, 8, 9], [7, 6, 1, 1], [4, 5, 9, 1], [7, 10, 11, 3]]
    assert turned["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert turned["completion_mask"].tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]


def test_responses_without_prompts_stand_behind_a_first_token():
    alone = without_prompts(batch_in_hand(), 2, 1)
    assert alone["input_ids"].tolist() == [[2, 6, 1, 1], [2, 8, 9, 1], [2, 10, 11, 3], [2, 9, 1, 1]]
    assert alone["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert alone["completion_mask"].tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0]]


def test_mismatched_pairs_are_not_longer_than_what_is_asked_of_a_model(tmp_path):
    """A long prompt with another one's long response is cut as any other sequence is."""
    long, short = " ".join("abcdefgh" * 2), "a"
    data = [
        {"prompt": long[:27], "chosen": " " + short, "rejected": " b"},
        {"prompt": short, "chosen": " " + long[:27], "rejected": " " + long[:25]},
    ]
    model = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=16, n_embd=16, n_layer=1, n_head=2, **test_llm.IDS))
    changes = {"max_length": 16, "max_steps": 1, "per_device_train_batch_size": 2}
    trainer = trainer_of("kto", tmp_path, model=model, data=Dataset.from_list(data), changes=changes)
    assert len(steps_of(trainer)) == 1


def test_a_response_without_its_prompt_has_the_tokens_that_it_has_with_it(tmp_path):
    """Where truncation leaves no prompt, the first token is not scored: not with a prompt, and not without."""
    trainer = trainer_of("rmipo", tmp_path, reference=reference_model())
    batch = {
        "input_ids": torch.tensor([[4, 5, 6], [7, 8, 9], [10, 11, 3], [7, 9, 1]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]]),
        "completion_mask": torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 0]]),
    }
    [pairs] = pairs_seen(trainer, batch)
    assert [side.length.tolist() for side in (pairs.chosen, pairs.rejected)] == [[2, 2], [2, 1]]
    for other in (without_prompts(batch, 2, 1), mismatched(batch, 1)):
        assert sorted(other["completion_mask"][:, 1:].sum(1).tolist()) == [1, 2, 2, 2]
    alone = without_prompts(batch, 2, 1)
    assert alone["input_ids"].tolist() == [[4, 5, 6], [2, 8, 9], [10, 11, 3], [2, 9, 1]]


# --- accumulation and interruption --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo", "dpo_norm", "tdpo1", "rmipo"])
def test_accumulated_batches_are_one_large_batch(name, tmp_path):
    steps, models = [], []
    for size, count in ((6, 1), (2, 3)):
        changes = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": count,
            "max_steps": 4,
            "learning_rate": 0.01,
        }
        trainer = trainer_of(name, tmp_path / str(size), reference=reference_model(), changes=changes)
        steps.append(steps_of(trainer))
        models.append(trainer.model)
    for found, model in zip(steps[1:], models[1:], strict=True):
        assert_same_steps(found, steps[0])
        assert_same_weights(model, models[0])
        assert found[-1]["rewards/margins"] == pytest.approx(steps[0][-1]["rewards/margins"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_resumed_training_is_uninterrupted_training(name, tmp_path):
    changes = {"max_steps": 6, "optim": "adamw_torch", "learning_rate": 1e-3, "lr_scheduler_type": "linear"}
    whole = trainer_of(name, tmp_path / "whole", reference=reference_model(), changes=changes)
    want = steps_of(whole)
    saved = {**changes, "save_strategy": "steps", "save_steps": 3}
    first = trainer_of(name, tmp_path / "cut", reference=reference_model(), changes=saved)
    first.train()
    again = trainer_of(name, tmp_path / "cut", reference=reference_model(), changes=saved)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    got = [row for row in again.state.log_history if "loss" in row]
    assert [row["step"] for row in got] == [1, 2, 3, 4, 5, 6]
    assert_same_steps(got, want)
    assert_same_weights(again.model, whole.model, 1e-6)


def test_the_reference_of_a_resumed_run_is_the_model_that_is_given_not_the_checkpoint(tmp_path):
    changes = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = trainer_of("dpo", tmp_path, changes=changes)
    want = steps_of(whole)
    again = trainer_of("dpo", tmp_path, changes=changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_steps([row for row in again.state.log_history if "loss" in row], want)
    assert_same_weights(again.ref_model, language_model(), 0.0)


# --- the reference ------------------------------------------------------------------------------------------


def lora(rank=2):
    return LoraConfig(r=rank, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")


@pytest.mark.parametrize("name", ["dpo", "tdpo1", "kto", "rmipo"])
def test_the_reference_of_an_adapter_is_the_model_below_it(name, tmp_path):
    changes = {"max_steps": 3, "learning_rate": 0.5}
    trainer = trainer_of(name, tmp_path, changes=changes, peft_config=lora())
    assert trainer.ref_model is None
    steps = steps_of(trainer)
    assert steps[0]["displacement/chosen"] == steps[0]["displacement/rejected"] == 0.0
    assert abs(steps[-1]["displacement/chosen"]) > 1e-3
    batch = batch_of(trainer, 5)
    with torch.no_grad():
        policy = trainer.model.get_base_model()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        base = language_model()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        reading = trainer._reference(batch)
    assert float((policy - base).abs().max()) > 1e-3
    taken = base[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    taken = taken.masked_fill(batch["completion_mask"][:, 1:] == 0, 0.0)
    torch.testing.assert_close(reading.log_probs, taken, rtol=0.0, atol=1e-5)
    loss, gradient = loss_and_gradient(trainer, batch)
    trainer.ref_model = language_model()
    add_fused_lm_head(trainer.ref_model)
    beside = loss_and_gradient(trainer, batch)
    assert loss == pytest.approx(beside[0], rel=1e-6)
    assert largest_difference(gradient, beside[1]) <= ROUNDING
    assert all("lora" in part for part, weight in trainer.model.named_parameters() if weight.requires_grad)


def test_the_reference_of_a_trained_adapter_is_that_adapter_as_it_was(tmp_path):
    first = trainer_of("dpo", tmp_path, changes={"max_steps": 2, "learning_rate": 0.5}, peft_config=lora())
    first.train()
    adapted = get_peft_model(language_model(), lora())
    adapted.load_state_dict(first.model.state_dict())
    second = trainer_of("dpo", tmp_path, model=adapted, changes={"max_steps": 3, "learning_rate": 0.5})
    before = second._reference(batch_of(second, 4)).log_probs
    steps = steps_of(second)
    assert steps[0]["rewards/margins"] == 0.0
    assert steps[-1]["rewards/margins"] != 0.0
    assert torch.equal(second._reference(batch_of(second, 4)).log_probs, before)


def test_adapters_train_as_under_trl(tmp_path):
    changes = {"max_steps": 6, "learning_rate": 0.2}
    ours = trainer_of(objective("dpo", beta=0.3), tmp_path / "ours", changes=changes, peft_config=lora())
    trls = trainer_of(None, tmp_path / "trl", changes={**changes, "beta": 0.3}, peft_config=lora())
    assert_same_steps(steps_of(ours), steps_of(trls))


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("name", ["dpo", "tdpo1", "wpo", "kto"])
def test_virtual_tokens_in_front_are_not_scored(name, tmp_path):
    prompt_tuning = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    trainer = trainer_of(name, tmp_path, changes={"max_steps": 1}, peft_config=prompt_tuning)
    batch = batch_of(trainer, 4)
    [pairs] = pairs_seen(trainer, batch)
    assert pairs.chosen.length.tolist() == batch["completion_mask"][:4].sum(1).tolist()
    with torch.no_grad():
        logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 3:-1]
    log_p = logits.log_softmax(-1)
    taken = log_p.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    mask = batch["completion_mask"][:, 1:].bool()
    got = torch.cat([pairs.chosen.log_pi, pairs.rejected.log_pi])
    torch.testing.assert_close(got, torch.where(mask, taken, 0.0).sum(1), rtol=0.0, atol=1e-5)
    if name == "wpo":
        collisions = torch.cat([side.tokens.sums.log_collision() for side in (pairs.chosen, pairs.rejected)])
        want = (2.0 * log_p).logsumexp(-1).masked_fill(~mask, 0.0)
        torch.testing.assert_close(collisions, want, rtol=0.0, atol=1e-5)
    assert steps_of(trainer)[0]["grad_norm"] > 0.0


@pytest.mark.parametrize("name", ["dpo", "ipo", "dpo_norm", "rmipo", "aot", "simpo"])
def test_a_precomputed_reference_is_an_online_one(name, tmp_path):
    changes = {"max_steps": 5, "learning_rate": 0.01}
    online = trainer_of(name, tmp_path / "online", reference=reference_model(), changes=changes)
    early = {**changes, "precompute_ref_log_probs": True}
    precomputed = trainer_of(name, tmp_path / "precomputed", reference=reference_model(), changes=early)
    assert "ref_chosen_logps" in precomputed.train_dataset.column_names
    assert_same_steps(steps_of(precomputed), steps_of(online))
    assert_same_weights(precomputed.model, online.model)


def test_a_precomputed_reference_needs_no_second_model(tmp_path):
    trainer = trainer_of("dpo", tmp_path, changes={"max_steps": 3, "precompute_ref_log_probs": True})
    assert trainer.ref_model is None
    steps = steps_of(trainer)
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert_same_steps(steps, steps_of(trainer_of("dpo", tmp_path, changes={"max_steps": 3})))


@pytest.mark.parametrize("name", ["tdpo1", "wpo", "ld_dpo", "tis_dpo"])
def test_sums_that_come_with_the_data_are_not_taken_for_those_of_tokens(name, tmp_path):
    """Columns of an earlier precomputation may still be in a dataset: a token-level objective has no use for them."""
    clean = trainer_of(name, tmp_path, reference=reference_model())
    want = loss_and_gradient(clean, batch_of(clean, 4))[0]
    data = [{**row, "ref_chosen_logps": -3.0, "ref_rejected_logps": -7.0} for row in rows()]
    trainer = trainer_of(name, tmp_path, reference=reference_model(), data=Dataset.from_list(data))
    assert loss_and_gradient(trainer, batch_of(trainer, 4))[0] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", ["dpo", "kto", "tdpo1"])
def test_dropout_is_off_in_both_models(name, tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=64, n_embd=16, n_layer=1, n_head=2, **test_llm.IDS))
    assert model.config.resid_pdrop > 0
    trainer = trainer_of(name, tmp_path, model=model)
    batch = batch_of(trainer, 4)
    first, second = loss_and_gradient(trainer, batch), loss_and_gradient(trainer, batch)
    assert first[0] == second[0]
    assert trainer._metrics["train"]["displacement/chosen"] == [0.0, 0.0]


def test_the_reference_has_no_dropout_where_the_policy_keeps_its_own(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=64, n_embd=16, n_layer=1, n_head=2, **test_llm.IDS))
    trainer = trainer_of("dpo", tmp_path, model=model, changes={"disable_dropout": False})
    batch = batch_of(trainer, 4)
    trainer.model.train()
    first, second = (trainer._reference(batch).log_probs for _ in range(2))
    assert torch.equal(first, second)


def test_training_goes_on_from_a_trained_model_with_that_model_as_reference(tmp_path):
    """As rounds of DICE do: the model has TRL's head already."""
    first = trainer_of("dpo", tmp_path, changes={"max_steps": 2})
    first.train()
    model = first.model
    second = trainer_of("tdpo1", tmp_path, model=model, changes={"max_steps": 2})
    assert not any(one is other for one, other in zip(model.parameters(), second.ref_model.parameters(), strict=True))
    steps = steps_of(second)
    assert steps[0]["displacement/chosen"] == 0.0
    assert steps[1]["displacement/chosen"] != 0.0
    assert not any(part.requires_grad for part in second.ref_model.parameters())


# --- processes ----------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
tests, out, tasks = sys.argv[1:]
sys.path.insert(0, tests)
from pathlib import Path
from test_llm_runs import run_task

found = [run_task(out + ".d", 4, *task) for task in json.loads(tasks)]
if found[0]["rank"] == 0:
    Path(out).write_text(json.dumps(found))
import torch.distributed
torch.distributed.destroy_process_group()  # threads that are left at the end may abort the process
"""

TASKS = {
    "dpo": ("dpo", {}),
    "dpo_norm": ("dpo_norm", {}),
    "alpha_dpo": ("alpha_dpo", {}),
    "alpha_dpo with gradients through gathered statistics": ("alpha_dpo", {"stop_gradient": False}),
    "beta_dpo": ("beta_dpo", {"beta": 0.5}),
    "beta_dpo filtered": ("beta_dpo", {"beta": 0.5, "rho": 0.3, "level": "batch"}),
    "aot": ("aot", {}),
    "aot_unpaired": ("aot_unpaired", {}),
    "tdpo1": ("tdpo1", {}),
    "wpo": ("wpo", {}),
    "rmipo": ("rmipo", {}),
    "rmipo with gradients through the marginal": ("rmipo", {"stop_gradient": False}),
    "kto": ("kto", {}),
    "aot of weighted pairs": ("aot", {}, True),
    "dpo of weighted pairs": ("dpo", {}, True),
}

COMPARED = (
    *("loss", "grad_norm", "rewards/chosen", "rewards/margins", "logps/chosen", "logits/chosen"),
    *("displacement/chosen_share", "displacement/rejected", "kl/ref_policy", "entropy", "mean_token_accuracy"),
    "num_tokens",
)


def run_task(folder, size, name, hyperparameters, weighted=False):
    """Train three steps, as one of however many processes."""
    changes = {"per_device_train_batch_size": size, "max_steps": 3, "learning_rate": 0.01}
    changes |= {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    data = Dataset.from_list(rows(weights=[1.0 + row % 3 for row in range(32)] if weighted else None))
    loss = objective(name, **hyperparameters)
    trainer = trainer_of(loss, folder, reference=reference_model(), changes=changes, data=data)
    steps = [{key: step[key] for key in COMPARED} for step in steps_of(trainer)]
    return {
        "rank": trainer.accelerator.process_index,
        "processes": trainer.accelerator.num_processes,
        "steps": steps,
        "weights": [float(part.detach().double().square().sum()) for part in trainer.model.parameters()],
    }


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory):
    """All tasks, each trained by two processes with four pairs each."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    arguments = [
        str(folder / "script.py"),
        str(Path(__file__).parent),
        str(folder / "out"),
        json.dumps([*TASKS.values()]),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launch, *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "out").read_text())
    assert {task["processes"] for task in found} == {2}
    return dict(zip(TASKS, found, strict=True))


def assert_same_task(got, want):
    assert_same_steps(got["steps"], want["steps"])
    for one, other in zip(got["steps"], want["steps"], strict=True):
        assert one == pytest.approx(other, rel=ROUNDING, abs=ROUNDING)
    assert got["weights"] == pytest.approx(want["weights"], rel=ROUNDING)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "kto"])
def test_two_processes_are_one_with_twice_the_batch(task, on_two_processes, tmp_path):
    assert_same_task(on_two_processes[task], run_task(tmp_path, 8, *TASKS[task]))


def test_kto_mismatches_pairs_within_each_process(on_two_processes, tmp_path, monkeypatch):
    """Two processes are one that turns each half of its prompts by itself; all else is the same."""

    def by_halves(batch, *others):
        half = len(batch["input_ids"]) // 4
        parts = [
            mismatched(
                {
                    key: torch.cat([part[rows], part[rows.start + 2 * half : rows.stop + 2 * half]])
                    for key, part in batch.items()
                },
                *others,
            )
            for rows in (slice(0, half), slice(half, 2 * half))
        ]
        width = max(part["input_ids"].shape[1] for part in parts)
        return {
            key: torch.cat([torch.nn.functional.pad(part[key], (0, width - part[key].shape[1])) for part in parts])
            for key in parts[0]
        }

    alone = run_task(tmp_path / "alone", 8, *TASKS["kto"])
    monkeypatch.setattr(didsim.llm._trainer, "mismatched", by_halves)
    assert_same_task(on_two_processes["kto"], run_task(tmp_path / "halves", 8, *TASKS["kto"]))
    # another estimate of z, of a mean over as many responses
    assert alone["steps"][0]["loss"] != pytest.approx(on_two_processes["kto"]["steps"][0]["loss"], rel=1e-6)
    assert alone["steps"][0]["loss"] == pytest.approx(on_two_processes["kto"]["steps"][0]["loss"], rel=0.2)
