"""What a policy makes of given pairs: the numbers of the training log, and of its own tokens one by one."""

import math

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from datasets import Dataset
from test_llm import language_model, reference_model, rows, tokenizer, trainer_of

from didsim import objective
from didsim.errors import BadDataError
from didsim.llm import score_pairs

pytestmark = test_llm.pytestmark


def data(count=12, **changes):
    return Dataset.from_list(rows(count, seed=3, **changes))


def logged(tmp_path, loss, pairs, batch_size=4):
    """What training logs of its evaluation data, before its first step."""
    changes = {"per_device_eval_batch_size": batch_size, "eval_strategy": "steps", "eval_on_start": True}
    changes |= {"max_steps": 1, "eval_steps": 1}
    trainer = trainer_of(loss, tmp_path, reference=reference_model(), changes=changes, eval_dataset=pairs)
    trainer.train()
    return next(row for row in trainer.state.log_history if "eval_loss" in row)


@pytest.mark.parametrize(
    "loss",
    [objective("dpo", beta=0.3), objective("simpo"), objective("tdpo1"), objective("alpha_dpo"), objective("kto")],
    ids=lambda loss: loss.name,
)
def test_the_numbers_are_those_of_the_training_log(tmp_path, loss):
    pairs = data()
    want = logged(tmp_path, loss, pairs)
    scores = score_pairs(language_model(), reference_model(), tokenizer(), pairs, loss=loss, batch_size=4)
    found = {name: estimate.mean for name, estimate in scores.estimates().items()}
    for name in ("loss", "rewards/margins", "rewards/accuracies", "rewards/chosen"):
        assert found[f"{loss.name}/{name}"] == pytest.approx(want[f"eval_{name}"], abs=1e-5), name
    for name in ("displacement/chosen_share", "displacement/rejected", "logps/chosen", "kl/ref_policy"):
        assert found[name] == pytest.approx(want[f"eval_{name}"], abs=1e-5), name


def by_hand(model, row, side):
    """Log π of a response from whole logits, with the end that training appends."""
    prompt = tokenizer()(row["prompt"])["input_ids"]
    ids = torch.tensor([tokenizer()(row["prompt"] + row[side] + "</s>")["input_ids"]])
    with torch.no_grad():
        logs = model(ids).logits[0].double().log_softmax(-1)
    return sum(float(logs[t - 1, ids[0, t]]) for t in range(len(prompt), ids.shape[1]))


def test_each_pair_has_the_log_ratios_of_whole_logits():
    model, reference, pairs = language_model(), reference_model(), data(5)
    scores = score_pairs(model, reference, tokenizer(), pairs, batch_size=2)
    for side in ("chosen", "rejected"):
        want = [by_hand(model, row, side) - by_hand(reference, row, side) for row in pairs]
        assert scores.values[f"displacement/{side}"].tolist() == pytest.approx(want, abs=1e-4)
    margins = scores.values["displacement/chosen"] - scores.values["displacement/rejected"]
    assert torch.allclose(scores.values["rewards/margins"], margins, atol=1e-5)
    assert {name.partition("/")[0] for name in scores.values} == {"rewards", "logps", "displacement", "kl"}


def test_estimates_are_means_with_standard_errors():
    scores = score_pairs(language_model(), reference_model(), tokenizer(), data(), batch_size=5)
    values = scores.values["rewards/margins"].tolist()
    mean = sum(values) / 12
    estimate = scores.estimates()["rewards/margins"]
    assert estimate.mean == pytest.approx(mean)
    assert estimate.error == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 11 / 12))


def test_a_model_that_is_its_reference_has_not_moved():
    found = score_pairs(language_model(), language_model(), tokenizer(), data()).estimates()
    assert found["displacement/chosen_share"].mean == 0.0
    assert found["rewards/margins"].mean == 0.0


def test_weights_count_in_the_loss_alone():
    weights = [1.0, 3.0, 0.0, 2.0]
    pairs, loss = data(4, weights=weights), objective("dpo", beta=0.5)
    found = score_pairs(language_model(), reference_model(), tokenizer(), pairs, loss=loss).estimates()
    plain = score_pairs(language_model(), reference_model(), tokenizer(), data(4), loss=loss)
    losses = plain.values["dpo/loss"].tolist()
    assert found["dpo/loss"].mean == pytest.approx(sum(w * x for w, x in zip(weights, losses, strict=True)) / 6)
    assert found["rewards/margins"].mean == pytest.approx(plain.estimates()["rewards/margins"].mean)


def test_pairs_whose_prompts_are_too_long_are_left_out_and_known():
    pairs = data(6)
    lengths = [len(tokenizer()(row["prompt"])["input_ids"]) for row in pairs]
    limit = max(lengths)
    scores = score_pairs(language_model(), reference_model(), tokenizer(), pairs, max_length=limit)
    assert scores.rows == tuple(number for number, length in enumerate(lengths) if length < limit)
    with pytest.raises(BadDataError, match="Raise max_length"):
        score_pairs(language_model(), reference_model(), tokenizer(), pairs, max_length=1)


def test_progress_counts_pairs():
    seen = []
    score_pairs(language_model(), reference_model(), tokenizer(), data(7), batch_size=3, told=seen.append)
    assert seen == [3, 3, 1]


def test_what_was_learned_beside_the_policy_is_not_guessed():
    loss = objective("mi_dpo", prior="learned")
    with pytest.raises(ValueError, match="beside the policy"):
        score_pairs(language_model(), reference_model(), tokenizer(), data(4), loss=loss)


def test_a_reference_over_other_tokens_is_refused():
    other = reference_model()
    other.resize_token_embeddings(20)
    with pytest.raises(BadDataError, match="20"):
        score_pairs(language_model(), other, tokenizer(), data(4))
