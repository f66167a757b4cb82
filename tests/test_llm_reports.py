"""All that is reported of a policy, against every response of models that have only few."""

import json
import math

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from datasets import Dataset
from scipy.optimize import minimize_scalar
from test_llm_sampling import LIMIT, A, B, all_responses, log_probs, tiny_model, tiny_tokenizer

from didsim.errors import BadDataError, ResourceError
from didsim.llm import Evaluation, EvaluationSettings, read_rewards, response_lines

pytestmark = test_llm.pytestmark

PROMPTS = {"a": (A,), "b a": (B, A)}

PAIRS = [{"prompt": "a", "chosen": " a", "rejected": " b"}, {"prompt": "b a", "chosen": " b b", "rejected": " a"}] * 2


def evaluation(reference, rewards=None, pairs=None, **options):
    settings = {"samples": 600, "max_new_tokens": LIMIT, "batch_size": 600, "with_reference": True, **options}
    data = Dataset.from_list(PAIRS if pairs is None else pairs)
    return Evaluation(reference, "reference", tiny_tokenizer(), data, EvaluationSettings(**settings), rewards)


def reward_of(tokens):
    return tokens.count(A) - 0.4 * len(tokens)


def near(size):
    """A reference near the model, but not the model."""
    model = tiny_model(0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model


def table_of(model):
    return torch.stack([log_probs(model, before) for before in PROMPTS.values()])


def scored(found, path, reward):
    """Write what was drawn, add rewards, and read it back."""
    lines = [
        {**json.loads(line), "reward": reward(json.loads(line))}
        for source, drawn in found.drawn.items()
        for line in response_lines(source, found.prompts, drawn.samples, tiny_tokenizer())
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_rewards(path, tiny_tokenizer(), 3)


@pytest.fixture(scope="module")
def drawn():
    """A policy, its reference, and what is reported of them with 600 responses to each prompt."""
    model, reference = tiny_model(0), near(0.2)
    found = evaluation(reference)
    return model, reference, found, found.report(model, "model")


def test_divergences_are_those_of_all_responses(drawn):
    model, reference, _, row = drawn
    pi, ref = table_of(model), table_of(reference)
    for name, one, other in (("kl/policy_ref", pi, ref), ("kl/ref_policy_samples", ref, pi)):
        want = float((one.exp() * (one - other)).sum(1).mean())
        assert abs(row[name] - want) < 4 * row[f"{name}_error"]
        variance = (one.exp() * (one - other) ** 2).sum(1) - (one.exp() * (one - other)).sum(1) ** 2
        assert row[f"{name}_error"] == pytest.approx(float((variance / 600).sum().sqrt() / 2), rel=0.15)
    assert row["samples"] == 1200
    assert row["samples/prompts"] == 2
    cut = float(table_of(model)[:, -(2**LIMIT) :].exp().sum(1).mean())
    assert row["samples/cut_share"] == pytest.approx(cut, abs=4 * math.sqrt(0.25 / 1200))


def test_the_nearest_tilt_is_that_of_all_responses(drawn, tmp_path):
    model, reference, found, _ = drawn
    rewards = scored(found, tmp_path / "rewards.jsonl", lambda line: reward_of(line["tokens"]))
    pi, ref = table_of(model), table_of(reference)
    values = torch.tensor([reward_of(tokens) for tokens in all_responses()], dtype=torch.float64)
    sign = 1.0 if float(((pi.exp() - ref.exp()) * values).sum()) > 0 else -1.0
    if sign < 0:
        rewards = scored(found, tmp_path / "rewards.jsonl", lambda line: -reward_of(line["tokens"]))

    def kl(slope):
        tilted = ref + slope * sign * values
        return float((pi.exp() * (pi - tilted + tilted.logsumexp(1, keepdim=True))).sum(1).mean())

    want = minimize_scalar(kl, bounds=(0, 20), method="bounded", options={"xatol": 1e-8})
    row = evaluation(reference, rewards, samples=0).report(model, "model")
    assert row["tilt/unknown"] == ""
    assert abs(row["tilt/kl"] - want.fun) < 4 * row["tilt/kl_error"]
    assert abs(row["tilt/inverse_beta"] - want.x) < 4 * row["tilt/inverse_beta_error"] < 2 * want.x
    assert row["tilt/beta"] == pytest.approx(1 / row["tilt/inverse_beta"])
    assert 2 < row["tilt/effective"] <= 600


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_a_policy_that_is_a_tilt_is_recognised_with_its_beta(drawn, tmp_path, beta):
    model, reference, found, _ = drawn
    ratio = table_of(model) - table_of(reference)
    numbers = {prompt: number for number, prompt in enumerate(PROMPTS)}

    def reward(line):  # any constant for each prompt drops out
        number = numbers[line["prompt"]]
        return beta * float(ratio[number, all_responses().index(tuple(line["tokens"]))]) + 7 * number

    row = evaluation(reference, scored(found, tmp_path / "r.jsonl", reward), samples=0).report(model, "model")
    assert row["fit_samples/r_squared"] == pytest.approx(1.0, abs=1e-6)
    assert row["fit_samples/inverse_beta"] == pytest.approx(1 / beta, rel=1e-4)
    assert abs(row["tilt/kl"]) < 4 * row["tilt/kl_error"] + row["tilt/bias"]
    assert abs(row["tilt/inverse_beta"] - 1 / beta) < 4 * row["tilt/inverse_beta_error"] < 1 / beta


def test_drawn_responses_come_back_as_they_were(drawn, tmp_path):
    _, _, found, _ = drawn
    rewards = scored(found, tmp_path / "r.jsonl", lambda line: len(line["tokens"]))
    for source, group in found.drawn.items():
        back = rewards.drawn[source]
        assert list(back.samples) == list(group.samples)
        assert back.rewards.tolist() == [len(sample.tokens) for sample in group.samples]


def test_responses_of_another_model_are_not_taken_for_its_own(drawn, tmp_path):
    _, reference, found, _ = drawn
    rewards = scored(found, tmp_path / "r.jsonl", lambda line: 1.0)
    with pytest.raises(BadDataError, match="as it is now"):
        evaluation(reference, rewards).report(tiny_model(7), "model")
    with pytest.raises(BadDataError, match="no responses of the policy other"):
        evaluation(reference, rewards).report(tiny_model(0), "other")


def test_responses_to_different_prompts_cannot_be_compared(drawn, tmp_path):
    model, reference, found, _ = drawn
    scored(found, tmp_path / "r.jsonl", lambda line: 1.0)
    kept = [
        line
        for line in (tmp_path / "r.jsonl").read_text().splitlines()
        if json.loads(line)["role"] == "policy" or json.loads(line)["prompt"] == "a"
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(kept))
    rewards = read_rewards(tmp_path / "r.jsonl", tiny_tokenizer(), 3)
    with pytest.raises(BadDataError, match="different prompts"):
        evaluation(reference, rewards).report(model, "model")


def test_rewards_of_pairs_tell_the_fit_alone_from_columns_or_a_file(tmp_path):
    model, reference = tiny_model(0), tiny_model(1)
    columns = [{**row, "reward_chosen": 2.0 + n, "reward_rejected": 0.5 * n} for n, row in enumerate(PAIRS)]
    row = evaluation(reference, pairs=columns, samples=0).report(model, "model")
    assert row["fit_pairs/responses"] == 8
    assert not any(name.startswith("tilt") for name in row)
    # within a pair: half the margin either side of its mean
    both = evaluation(reference, samples=0).report(model, "model")
    assert not any(name.startswith("fit") for name in both)
    lines = [
        {"prompt": row["prompt"], "response": row[side].strip(), "reward": reward}
        for row, rewards in zip(PAIRS[:2], ((1.0, 3.0), (0.0, -1.0)), strict=True)
        for side, reward in zip(("chosen", "rejected"), rewards, strict=True)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rewards = read_rewards(tmp_path / "r.jsonl", tiny_tokenizer(), 3)
    found = evaluation(reference, rewards, samples=0).report(model, "model")

    def margin(one, other, before):
        ratio = log_probs(model, before) - log_probs(reference, before)
        return float(ratio[all_responses().index(one)] - ratio[all_responses().index(other)])

    # least squares within pairs: Σ Δr Δh / Σ Δr², each pair twice
    margins = [margin((A, 2), (B, 2), (A,)), margin((B, B, 2), (A, 2), (B, A))]
    assert found["fit_pairs/inverse_beta"] == pytest.approx((-2 * margins[0] + 1 * margins[1]) / 5, abs=1e-5)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "response": "b"}', "line 1: reward is missing"),
        ('{"prompt": "a", "response": "b", "reward": NaN}', "finite"),
        ('{"prompt": "a", "response": "b", "reward": true}', "finite"),
        ("[1]", "must be an object"),
        ("{", "no JSON"),
        ("", "no reward"),
        ('{"prompt": "a", "response": "b", "reward": 1, "tokens": [9]}', "below 3"),
        ('{"prompt": "a", "response": "b", "reward": 1, "tokens": [1]}', "as they were written"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    (tmp_path / "r.jsonl").write_text(line + "\n")
    with pytest.raises(BadDataError, match=words):
        read_rewards(tmp_path / "r.jsonl", tiny_tokenizer(), 3)


def test_only_the_first_different_prompts_are_answered():
    assert evaluation(None, prompts=1).prompts == ["a"]
    assert evaluation(None).prompts == ["a", "b a"]


def test_too_little_memory_is_no_bug(monkeypatch):
    def scored(*_arguments, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("didsim.llm._reports.score_pairs", scored)
    with pytest.raises(ResourceError, match="--batch-size"):
        evaluation(None).report(None, "model")
