"""What is learned beside the policy, and gradient rules: a prior, token masks, DPO-PG."""

import pytest

pytest.importorskip("trl", reason="the extra llm is not installed")

import test_llm
import torch
from datasets import Dataset
from test_llm import batch_of, language_model, reference_model, rows, settings, steps_of, trainer_of

from didsim.llm._companions import TokenPrior
from didsim.objectives import Pairs, objective

pytestmark = test_llm.pytestmark

LEARNED = {"mi_dpo": {"prior": "learned"}, "sparse_po": {"masks": "learned", "lam": 0.01}}


def log_probs(model, prompt, response):
    """Return log π(y|x) of one unpadded sequence, token by token, from dense logits."""
    ids = torch.tensor([prompt + response])
    logits = model(input_ids=ids).logits.double()
    dense = torch.log_softmax(logits[0, len(prompt) - 1 : -1], dim=-1)
    return dense.gather(1, torch.tensor(response)[:, None])[:, 0]


def sequences(batch):
    """Return prompt and response of each row."""
    shown, scored = batch["attention_mask"].bool(), batch["completion_mask"].bool()
    for ids, one, two in zip(batch["input_ids"], shown, scored, strict=True):
        yield ids[one & ~two].tolist(), ids[two].tolist()


def flat(gradients):
    return torch.cat([part.flatten() for part in gradients])


def nll_gradients(model, batch):
    """Return the gradients of the mean negative log-likelihood of chosen and of rejected responses."""
    sums = torch.stack([log_probs(model, *one).sum() for one in sequences(batch)])
    half, parameters = len(sums) // 2, list(model.parameters())
    parts = (-sums[:half].mean(), -sums[half:].mean())
    return [flat(torch.autograd.grad(part, parameters, retain_graph=True)) for part in parts]


# --- DPO-PG -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 3])
def test_dpo_pg_takes_one_projected_step_for_all_micro_batches(pieces, tmp_path):
    """The data have six pairs, and one step sees them all."""
    data = Dataset.from_list(rows(6))
    changes = {
        "max_steps": 1,
        "per_device_train_batch_size": 6 // pieces,
        "gradient_accumulation_steps": pieces,
        "learning_rate": 0.01,
    }
    trainer = trainer_of("dpo_pg", tmp_path, reference=reference_model(), data=data, changes=changes)
    before = language_model()
    first, second = nll_gradients(before, batch_of(trainer, 6))
    assert first @ second > 0  # so that there is something to project out
    wanted = first - (first @ second) / (second @ second) * second
    steps_of(trainer)
    moved = flat(
        [a.detach() - b.detach() for a, b in zip(trainer.model.parameters(), before.parameters(), strict=True)]
    )
    assert (moved / -0.01 - wanted).abs().max() <= 2e-4 * wanted.abs().max()


def test_the_projected_gradient_is_clipped_and_not_its_parts(tmp_path):
    changes = {"max_steps": 1, "per_device_train_batch_size": 6, "max_grad_norm": 1e-3, "learning_rate": 1.0}
    trainer = trainer_of("dpo_pg", tmp_path, data=Dataset.from_list(rows(6)), changes=changes)
    first, second = nll_gradients(language_model(), batch_of(trainer, 6))
    wanted = first - (first @ second) / (second @ second) * second
    [step] = steps_of(trainer)
    assert step["grad_norm"] == pytest.approx(float(wanted.norm()), rel=1e-4)
    before = language_model().parameters()
    moved = flat([a.detach() - b.detach() for a, b in zip(trainer.model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_an_evaluation_between_steps_adds_nothing_to_the_second_gradient(tmp_path):
    changes = {"max_steps": 2, "per_device_train_batch_size": 4}
    steps = []
    for more in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        others = {"eval_dataset": Dataset.from_list(rows(4, seed=5))} if more else {}
        trainer = trainer_of("dpo_pg", tmp_path, changes={**changes, **more}, **others)
        steps.append([row["grad_norm"] for row in steps_of(trainer)])
    assert steps[0] == pytest.approx(steps[1], rel=1e-6)


@pytest.mark.parametrize("name", ["dpo_pg", "tdpo1", "mi_dpo"])
def test_sharded_parameters_are_refused_at_the_start(name, tmp_path, monkeypatch):
    trainer = trainer_of(objective(name, **LEARNED.get(name, {})), tmp_path)
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with pytest.raises(ValueError, match=f"parameters under {name} must be whole"):
        trainer._check_devices(True)


# --- a learned prior ----------------------------------------------------------------------------------------


def test_the_prior_starts_at_the_reference_without_a_prompt(tmp_path):
    loss = objective("mi_dpo", alpha=1.0, prior="learned")
    trainer = trainer_of(loss, tmp_path, reference=reference_model())
    trainer.companion.weight.data.copy_(trainer.ref_model.get_output_embeddings().weight)
    batch, first = batch_of(trainer, 4), trainer._tokenizer.bos_token_id
    given = list(sequences(batch))
    log_pi = torch.stack([log_probs(language_model(), *one).sum() for one in given])
    log_zeta = torch.stack([log_probs(reference_model(), [first], y).sum() for _, y in given])
    margins = (log_pi - log_zeta)[:4] - (log_pi - log_zeta)[4:]
    wanted = torch.nn.functional.softplus(-margins).mean()
    assert float(trainer.compute_loss(trainer.model, batch).detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_the_prior_is_a_copy_of_the_head_the_model_starts_with(tmp_path):
    model = language_model()
    trainer = trainer_of(objective("mi_dpo", prior="learned"), tmp_path, model=model)
    assert isinstance(trainer.companion, TokenPrior)
    assert torch.equal(trainer.companion.weight, model.get_output_embeddings().weight)
    assert trainer.companion.weight is not model.get_output_embeddings().weight


# --- learned masks ------------------------------------------------------------------------------------------


def test_learned_masks_start_as_no_masks_at_their_cost(tmp_path):
    reference = reference_model()
    learned = trainer_of(objective("sparse_po", masks="learned", lam=0.5), tmp_path, reference=reference)
    given = trainer_of(objective("sparse_po", lam=0.5), tmp_path, reference=reference)
    batch = batch_of(learned, 4)
    one, other = (float(trainer.compute_loss(trainer.model, batch).detach()) for trainer in (learned, given))
    assert one == pytest.approx(other, rel=1e-6)


def test_masks_are_a_function_of_the_references_hidden_states(tmp_path):
    """Against the loss of masks that the test computes itself, from whole hidden states of single sequences."""
    reference, loss = reference_model(), objective("sparse_po", masks="learned", lam=0.1)
    trainer = trainer_of(loss, tmp_path, reference=reference)
    torch.manual_seed(0)
    torch.nn.init.normal_(trainer.companion.linear.weight)
    batch, sizes = batch_of(trainer, 4), []
    for prompt, response in sequences(batch):
        ids = torch.tensor([prompt + response])
        hidden = reference_model().base_model(input_ids=ids).last_hidden_state[0, len(prompt) - 1 : -1]
        sizes.append(torch.relu(trainer.companion.linear(hidden)).sum())
    costs = torch.stack(sizes)
    seen = {}
    original = trainer._weighted

    def spy(pairs: Pairs):
        seen["pairs"] = pairs
        return original(pairs)

    trainer._weighted = spy
    trainer.compute_loss(trainer.model, batch)
    for side, wanted in ((seen["pairs"].chosen, costs[:4]), (seen["pairs"].rejected, costs[4:])):
        tokens = side.decisions
        found = tokens.total(tokens.reward_mask + tokens.kl_mask)
        assert torch.allclose(found, wanted, rtol=1e-4)


# --- both ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_beside_the_policy_moves_with_it(name, tmp_path):
    changes = {"max_steps": 3, "learning_rate": 0.1}
    trainer = trainer_of(objective(name, **LEARNED[name]), tmp_path, reference=reference_model(), changes=changes)
    before = [parameter.detach().clone() for parameter in trainer.companion.parameters()]
    steps_of(trainer)
    assert all((a != b).any() for a, b in zip(before, trainer.companion.parameters(), strict=True))


@pytest.mark.parametrize("name", LEARNED)
def test_training_that_resumes_has_what_was_learned_beside_the_policy(name, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.05}
    loss = objective(name, **LEARNED[name])
    whole = trainer_of(loss, tmp_path, reference=reference_model(), changes=changes)
    steps = steps_of(whole)
    again = trainer_of(loss, tmp_path, reference=reference_model(), changes=changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rest = [row for row in again.state.log_history if "loss" in row]
    assert [row["loss"] for row in rest] == pytest.approx([row["loss"] for row in steps], rel=1e-6)
    for one, other in zip(whole.companion.parameters(), again.companion.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LEARNED)
def test_with_an_adapter_it_is_refused(name, tmp_path):
    peft = pytest.importorskip("peft", reason="the extra llm is not installed")
    with pytest.raises(ValueError, match="one without an adapter"):
        trainer_of(objective(name, **LEARNED[name]), tmp_path, peft_config=peft.LoraConfig())


def test_precomputed_references_are_refused_where_more_is_needed(tmp_path):
    for name, options in LEARNED.items():
        with pytest.raises(ValueError, match="precompute_ref_log_probs"):
            trainer_of(objective(name, **options), tmp_path, changes={"precompute_ref_log_probs": True})


def test_scaled_gradients_are_refused_under_a_rule(tmp_path, monkeypatch):
    trainer = trainer_of("dpo_pg", tmp_path)
    monkeypatch.setattr(trainer, "args", settings(tmp_path))
    monkeypatch.setattr(trainer.args, "fp16", True)
    with pytest.raises(ValueError, match="fp16 under dpo_pg must be False"):
        trainer._check_devices(True)
