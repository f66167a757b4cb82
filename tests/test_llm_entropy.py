"""Entropies of language models, against all responses of models that have only few; and `didsim llm entropy`."""

import copy
import json
import math
import shlex
import sys

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from conftest import ALL_COMMANDS
from test_llm import language_model, reference_model
from test_llm_sampling import (
    LIMIT,
    A,
    B,
    all_responses,
    log_probs,
    positioned_model,
    tiny_model,
    tiny_tokenizer,
)

import didsim as ds
from didsim.errors import BadDataError
from didsim.llm import did_entropy, load_prompts, response_entropy, sample_responses
from didsim.llm._entropy import (
    DidEntropy,
    EntropyEstimate,
    pairs_of_samples,
    probe_settings,
    sample_beta_accuracy,
    trained_probe,
)
from didsim.llm._sampling import Sample, draw, left_padded, score, seeded

pytestmark = test_llm.pytestmark

MILD = 3.0
"""A scale of weights by which no response is too rare for a chi-square test."""


def entropy_of(log_pi):
    return float(-(log_pi.exp() * log_pi).sum())


# --- Monte Carlo ------------------------------------------------------------------------------------------


def test_the_estimate_is_the_exact_entropy_within_four_standard_errors():
    model = tiny_model(0, MILD)
    exact = [log_probs(model, before) for before in ((A,), (B, A, B))]
    samples = sample_responses(model, tiny_tokenizer(), ["a", "b a b"], 2000, LIMIT, seed=3, batch_size=1000)
    found = response_entropy(samples)
    want = sum(map(entropy_of, exact)) / 2
    assert abs(found.entropy - want) < 4.0 * found.error
    variances = [float((log_pi.exp() * log_pi**2).sum()) - entropy_of(log_pi) ** 2 for log_pi in exact]
    assert found.error == pytest.approx(math.sqrt(sum(variances) / 2 / 4000), rel=0.1)
    lengths = torch.tensor([float(len(tokens)) for tokens in all_responses()])
    mean_length = sum(float((log_pi.exp() * lengths).sum()) for log_pi in exact) / 2
    assert found.per_token == pytest.approx(want / mean_length, rel=0.05)
    cut = sum(float(log_pi[-(2**LIMIT) :].exp().sum()) for log_pi in exact) / 2
    assert found.cut / found.responses == pytest.approx(cut, abs=4.0 * math.sqrt(0.25 / 4000))


def test_of_known_numbers():
    samples = [Sample(0, (A,), (A, 2), -1.0, False), Sample(0, (A,), (A, A), -3.0, True)]
    samples += [Sample(1, (B,), (2,), -2.0, False), Sample(1, (B,), (B, 2), -2.0, False)]
    assert response_entropy(samples) == EntropyEstimate(2.0, 0.5, 8.0 / 7.0, 4, 1)


@pytest.mark.parametrize("kept", [[0, 2], [0, 1, 2]])
def test_one_response_or_different_numbers_are_refused(kept):
    samples = [Sample(number // 2, (A,), (2,), -1.0, False) for number in range(4)]
    with pytest.raises(ValueError, match="samples must be"):
        response_entropy([samples[number] for number in kept])


def test_draws_pass_a_chi_square_test_and_those_of_a_planted_top_k_do_not(monkeypatch):
    model, count = tiny_model(0, MILD), 4000
    probs = log_probs(model, (A,)).exp()

    def chi_square():
        drawn = [sample.tokens for sample in sample_responses(model, tiny_tokenizer(), ["a"], count, LIMIT, 5, 1000)]
        seen = torch.tensor([drawn.count(tokens) for tokens in all_responses()]).double()
        return float(((seen - count * probs) ** 2 / (count * probs)).sum())

    assert float(count * probs.min()) > 5.0
    beyond = 45.0  # of 14 degrees of freedom, once in 25 000 times
    assert chi_square() < beyond
    from didsim.llm import _sampling

    plain = _sampling.GenerationConfig
    monkeypatch.setattr(_sampling, "GenerationConfig", lambda **given: plain(**{**given, "top_k": 2}))
    assert chi_square() > beyond


def test_a_response_must_fit_behind_its_prompt():
    with pytest.raises(ValueError, match=r"max_new_tokens must be at most 6; got 7.* takes 8 in all"):
        sample_responses(positioned_model(0), tiny_tokenizer(), ["a", "a b"], 2, 7, seed=0)
    with pytest.raises(ValueError, match="max_new_tokens must be possible"):
        sample_responses(positioned_model(0), tiny_tokenizer(), ["a b " * 5], 2, 7, seed=0)


def test_progress_is_told():
    told = []
    sample_responses(tiny_model(0, MILD), tiny_tokenizer(), ["a", "b"], 5, LIMIT, 0, batch_size=4, told=told.append)
    assert told == [4, 4, 2]


# --- the probe --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """Two models, and the probe that was trained on 4000 pairs of theirs."""
    model, reference = positioned_model(0), positioned_model(1)
    drawn = (sample_responses(source, tiny_tokenizer(), ["a"], 4000, LIMIT, seed, 1000)
             for seed, source in enumerate((model, reference)))  # fmt: skip
    data = pairs_of_samples(*drawn)
    before = copy.deepcopy(reference.state_dict())
    probe = trained_probe(reference, tiny_tokenizer(), data, probe_settings(4000, 50, 0.01, 0, False))
    assert all(torch.equal(weight, before[name]) for name, weight in reference.state_dict().items())
    return model, reference, probe


def exact(models):
    return [log_probs(model, (A,)) for model in models]


def test_the_probe_comes_near_the_did(trained):
    log_pi, log_ref, log_probe = exact(trained)
    log_q = (log_pi - log_ref).log_softmax(0)
    assert entropy_of(log_q) - entropy_of(log_ref) > 0.6
    # other draws of 4000 pairs leave a KL of 0.01 to 0.06, and entropies within 0.06; the reference is at 3.8 and 0.67
    assert entropy_of(log_probe) == pytest.approx(entropy_of(log_q), abs=0.1)
    assert float((log_q.exp() * (log_q - log_ref)).sum()) > 3.0
    assert float((log_q.exp() * (log_q - log_probe)).sum()) < 0.12


def test_a_probe_may_be_scored_drawn_from_and_trained_again(trained):
    """TRL's fused head is bound to the model to which it was added, and a copy must not keep it."""
    _, reference, probe = trained
    score(reference, tiny_tokenizer(), [(A,)], [(B, 2)])
    assert torch.allclose(
        score(probe, tiny_tokenizer(), [(A,)] * 15, all_responses()), log_probs(probe, (A,)), atol=1e-4
    )
    with seeded(probe, 0):
        many = draw(probe, tiny_tokenizer(), left_padded(tiny_tokenizer(), [(A,)] * 2000), LIMIT)
    share = sum(tokens == (2,) for tokens in many) / 2000
    wanted = float(log_probs(probe, (A,))[0].exp())
    assert share == pytest.approx(wanted, abs=4.0 * math.sqrt(wanted / 2000))
    data = pairs_of_samples(*[[Sample(0, (A,), (B, 2), 0.0, False)] * 20, [Sample(0, (A,), (A, 2), 0.0, False)] * 20])
    again = trained_probe(reference, tiny_tokenizer(), data, probe_settings(20, 10, 0.01, 0, False))
    assert not torch.allclose(log_probs(again, (A,)), log_probs(reference, (A,)), atol=0.01)


def test_all_of_it_tells_the_entropies_of_model_reference_and_did():
    model, reference, told = positioned_model(0), positioned_model(1), []
    found = did_entropy(model, reference, tiny_tokenizer(), ["a"], samples=1000, pairs=4000, learning_rate=0.01,
                        max_new_tokens=LIMIT, batch_size=50, told=told.append)  # fmt: skip
    log_pi, log_ref = exact((model, reference))
    assert abs(found.model.entropy - entropy_of(log_pi)) < 4.0 * found.model.error
    assert abs(found.reference.entropy - entropy_of(log_ref)) < 4.0 * found.reference.error
    want = entropy_of((log_pi - log_ref).log_softmax(0))
    assert found.probe.entropy == pytest.approx(want, abs=0.1 + 4.0 * found.probe.error)
    assert found.beta_accuracy > 0.9
    assert 0 < found.fits <= 250
    assert "higher entropy" in found.sentence
    assert sum(told) == 3 * 1000 + 3 * 4000


def test_models_over_different_tokens_are_refused():
    with pytest.raises(ValueError, match="same tokens; got '3 and 12"):
        did_entropy(tiny_model(0, MILD), language_model(), tiny_tokenizer(), ["a"])


# --- β′-accuracy ------------------------------------------------------------------------------------------


def drawn_from(log_probe, count, seed=0):
    torch.manual_seed(seed)
    numbers = torch.multinomial(log_probe.exp(), count, replacement=True).tolist()
    samples = [Sample(0, (A,), all_responses()[number], float(log_probe[number]), False) for number in numbers]
    return samples, numbers


@pytest.mark.parametrize("exponent", [1.0, 0.2, -0.5])
def test_beta_accuracy_is_that_of_the_exact_laboratory(exponent):
    log_pi, log_ref = exact((tiny_model(0, MILD), tiny_model(1, MILD)))
    for log_probe in (((log_pi - log_ref) * exponent).log_softmax(0), log_ref.log_softmax(0)):
        samples, numbers = drawn_from(log_probe, 8000)
        share, fits = sample_beta_accuracy(samples, [float((log_pi - log_ref)[number]) for number in numbers])
        policies = [ds.Policy.from_log_probs(part.log_softmax(0).numpy()) for part in (log_probe, log_pi, log_ref)]
        want = ds.beta_accuracy(*policies, draws=20_000)
        assert share == pytest.approx(want, abs=4.0 * math.sqrt(0.25 / 2000))
        assert fits == sum(len(set(numbers[n : n + 4])) > 1 for n in range(0, 8000, 4))


def test_fours_of_one_response_and_rests_of_a_prompt_determine_no_slope():
    samples, numbers = drawn_from(torch.full((15,), 1 / 15.0).double().log(), 6)
    same = [samples[0]] * 4
    share, fits = sample_beta_accuracy(same, [0.0, 1e-6, 0.0, 2e-6])  # rounding
    assert math.isnan(share)
    assert fits == 0
    assert sample_beta_accuracy(samples, [float(number) for number in numbers])[1] == 1


@pytest.mark.parametrize(
    ("probe", "accuracy", "words"),
    [(2.0, 0.9, "higher"), (0.5, 0.9, "lower"), (1.1, 0.9, "cannot be told"), (2.0, 0.3, "did not come near"),
     (2.0, math.nan, "did not come near")],
)  # fmt: skip
def test_what_is_said_of_it(probe, accuracy, words):
    estimates = [EntropyEstimate(entropy, 0.1, 0.1, 10, 0) for entropy in (1.0, 1.0, probe)]
    assert words in DidEntropy(*estimates, accuracy, 10).sentence


# --- prompts ----------------------------------------------------------------------------------------------


def test_prompts_are_read_from_rows_of_prompts_and_of_pairs(tmp_path):
    path = tmp_path / "prompts.jsonl"
    said = [{"role": "user", "content": "c"}]
    rows = [{"prompt": "a", "id": 3}, {"instruction": "b"}, {"prompt": said},
            {"chosen": [*said, {"role": "assistant", "content": "x"}],
             "rejected": [*said, {"role": "assistant", "content": "y"}]}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_prompts(path) == ["a", "b", said, said]


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"text": "a"}', "line 1: prompt is missing"), ('{"prompt": 3}', "line 1: prompt must be"), ("a", "no JSON"),
     ("[1]", "must be an object"), ("", "has no prompt"), ('{"prompt": "\\ud800"}', "lone surrogate")],
)  # fmt: skip
def test_rows_without_a_prompt_are_bad_data(tmp_path, text, words):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(BadDataError, match=words):
        load_prompts(path)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def furnished(here):
    """A directory in which the examples run."""
    for name, model in (("model", language_model()), ("reference", reference_model())):
        model.save_pretrained(here / name)
        test_llm.tokenizer().save_pretrained(here / name)
    (here / "prompts.jsonl").write_text("".join(f'{{"prompt": "{word}"}}\n' for word in ("a b", "c", "d e f")))
    return here


@pytest.fixture
def shorter(monkeypatch):
    """Longest responses of 8 tokens, where a command does not say otherwise."""
    monkeypatch.setenv("DIDSIM_LLM_ENTROPY_MAX_NEW_TOKENS", "8")


@pytest.mark.parametrize("example", ALL_COMMANDS["llm entropy"].examples)
@pytest.mark.usefixtures("furnished", "shorter")
def test_every_example_runs(run, example):
    done = run(*shlex.split(example)[1:], "-q")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    if "--json" in example:
        assert json.loads(done.stdout)["entropy"]["model"]["entropy"] > 0.0
    else:
        assert "H [nats]" in done.stdout


COMMAND = ("llm", "entropy", "--model", "model", "--prompts", "prompts.jsonl", "--max-new-tokens", 6)


@pytest.mark.usefixtures("furnished")
def test_the_seed_decides_what_is_said(run):
    with_probe = (*COMMAND, "--reference", "reference", "--probe-pairs", 4, "--json")
    one, two, other = (run(*with_probe, "--seed", seed).stdout for seed in (1, 1, 2))
    assert one == two
    assert one != other
    document = json.loads(one)
    assert document["did"]["difference"] == pytest.approx(
        document["entropy"]["probe"]["entropy"] - document["entropy"]["reference"]["entropy"]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--samples", 1), 2, "samples"),
        (("--reference", "reference", "--samples", 3), 2, "at least 4"),
        (("--probe-prompts", "prompts.jsonl"), 2, "--reference"),
        (("--max-new-tokens", 1000), 2, "max_new_tokens"),
        (("--dtype", "float12"), 2, "float12"),
        (("--prompts", "none.jsonl"), 4, "no file"),
        (("--model", "none"), 4, "no folder"),
        (("--reference", "none"), 4, "no folder"),
        (("--learning-rate", "0"), 2, "learning-rate"),
    ],
)
@pytest.mark.usefixtures("furnished")
def test_what_is_wrong_is_said_in_one_line(run, arguments, code, words):
    done = run(*COMMAND, *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("furnished")
def test_bfloat16_is_near_float32(run):
    found = [json.loads(run(*COMMAND, "--samples", 50, "--dtype", kind, "--json").stdout)["entropy"]["model"]
             for kind in ("float32", "bfloat16")]  # fmt: skip
    assert found[0]["entropy"] == pytest.approx(found[1]["entropy"], abs=4.0 * 1.5 * found[0]["error"])
    assert found[0] != found[1]


@pytest.mark.usefixtures("furnished")
def test_without_the_extra_one_line_says_what_to_install(run, monkeypatch):
    for name in [name for name in sys.modules if name == "didsim.llm" or name.startswith("didsim.llm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run(*COMMAND)
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "didsim[llm]" in done.stderr
