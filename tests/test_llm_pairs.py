"""Preference data for a given optimum, against all responses of models that have only few; and `didsim llm pairs`."""

import copy
import hashlib
import json
import math
import shlex
import sys

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from conftest import ALL_COMMANDS
from test_llm import language_model, reference_model, settings
from test_llm_sampling import END, LIMIT, A, B, all_responses, log_probs, positioned_model, tiny_model, tiny_tokenizer

import didsim as ds
from didsim.errors import BadDataError
from didsim.llm import DrawnPair, PreferenceTrainer, draw_pairs, load_pairs, pair_rows
from didsim.llm._drawn_pairs import response_text
from didsim.llm._proposal import RejectedLogits
from didsim.llm._sampling import left_padded, prompt_ids

pytestmark = test_llm.pytestmark

MILD = 3.0
"""A scale of weights by which no response is too rare for a chi-square test."""

BEFORES = {"a": (A,), "b a b": (B, A, B)}
"""Prompts of two lengths, and their tokens."""


@pytest.fixture(scope="module")
def models():
    """A reference and a target."""
    return tiny_model(0, MILD), tiny_model(1, MILD)


@pytest.fixture(scope="module")
def distant():
    """A reference and a target far from it, with absolute positions."""
    return positioned_model(1), positioned_model(0)


def next_log_probs(model, before):
    with torch.no_grad():
        return model(torch.tensor([before])).logits[0, -1].double().log_softmax(-1)


def token_by_token(models, before, beta):
    """Log ρ and log w of every response, by the formula on whole logits: [N] each."""
    reference, target = models
    log_rho, log_weight = [], []
    for tokens in all_responses():
        rho = weight = 0.0
        for step, token in enumerate(tokens):
            log_ref, log_target = (next_log_probs(m, before + tokens[:step]) for m in (reference, target))
            unnormalised = (1.0 + beta) * log_ref - beta * log_target
            log_z = float(unnormalised.exp().sum().log())
            rho, weight = rho + float(unnormalised[token]) - log_z, weight + log_z
        log_rho.append(rho)
        log_weight.append(weight)
    return torch.tensor(log_rho, dtype=torch.float64), torch.tensor(log_weight, dtype=torch.float64)


def by_the_processor(models, before, beta):
    """Log ρ and log w of every response by the processor, led along all of them, and a longer prompt: [N] each."""
    reference, target = models
    led = [(before, response) for response in all_responses()] + [((B, B, *before), (A,) * LIMIT)]
    ids, seen = left_padded(tiny_tokenizer(), [prompt for prompt, _ in led])
    processor, log_rho = RejectedLogits(target, beta, seen), torch.zeros(len(led))
    for step in range(LIMIT):
        tokens = [response[step] if step < len(response) else END for _, response in led]
        logits = torch.stack([next_log_probs(reference, prompt + response[:step]) for prompt, response in led])
        with torch.no_grad():
            found = processor(ids, logits)
        there = torch.tensor([step < len(response) for _, response in led])
        log_rho = log_rho + torch.where(there, found[torch.arange(len(led)), tokens], 0.0)
        ids = torch.cat([ids, torch.tensor(tokens).unsqueeze(1)], 1)
    log_weight = processor.log_weights([response for _, response in led])
    return log_rho[:-1].double(), torch.tensor(log_weight[:-1], dtype=torch.float64)


def ideal(models, before, beta):
    probs = [log_probs(model, before).softmax(0).numpy() for model in models]
    return torch.tensor(ds.ideal_rejected(*probs, beta=beta).probs)


# --- the proposal and its weights -------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("before", BEFORES.values())
@pytest.mark.parametrize("kind", ["models", "distant"])
def test_the_processor_is_the_formula_token_by_token(kind, before, beta, request):
    both = request.getfixturevalue(kind)
    for got, want in zip(by_the_processor(both, before, beta), token_by_token(both, before, beta), strict=True):
        assert torch.allclose(got, want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.5])
def test_weighted_proposals_are_the_ideal_rejected_distribution(distant, beta):
    """Over all responses, not by sampling; their mean weight is Z."""
    log_rho, log_weight = by_the_processor(distant, (A,), beta)
    assert float(log_rho.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    weighted = (log_rho + log_weight).exp()
    assert torch.allclose(weighted / weighted.sum(), ideal(distant, (A,), beta), atol=1e-5)
    log_ref, log_target = (log_probs(model, (A,)) for model in distant)
    log_z = float(((1 + beta) * log_ref - beta * log_target).logsumexp(0))
    assert float(weighted.sum().log()) == pytest.approx(log_z, abs=1e-4)
    assert float((log_rho.exp() - ideal(distant, (A,), beta)).abs().max()) > 0.004  # weights are needed


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_dpo_ends_at_the_target_on_these_weights_and_not_without(distant, beta):
    log_rho, log_weight = by_the_processor(distant, (A,), beta)
    reference, target = (ds.Policy.from_log_probs(log_probs(m, (A,)).log_softmax(0).numpy()) for m in distant)
    distances = []
    for rejected in ((log_rho + log_weight).softmax(0), log_rho.softmax(0)):
        problem = ds.Problem(reference, target, ds.Policy.from_probs(rejected.numpy()), reference)
        solution = ds.solve(problem, ds.objective("dpo", beta=beta))
        assert solution.status == "converged"
        distances.append(float(ds.js(target, solution.policy)))
    assert distances[0] < 1e-9
    assert distances[1] > 0.005


def test_the_proposal_of_equal_models_is_the_model_and_weighs_1(models):
    processor = RejectedLogits(models[0], 2.0, torch.ones(1, 1, dtype=torch.long))
    logits = next_log_probs(models[0], (A,)).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(processor(torch.tensor([[A]]), logits), logits, atol=1e-5)
    assert processor.log_weights([(END,)]) == pytest.approx([0.0], abs=1e-5)


class Fixed(torch.nn.Module):
    """A target with the same logits everywhere."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor([[logits]])
        self.device, self.past_key_values = torch.device("cpu"), None

    def forward(self, **_given):
        return self


def test_tokens_that_the_reference_excludes_are_never_drawn_and_others_must_not_be_excluded():
    inf, seen, ids = math.inf, torch.ones(1, 1, dtype=torch.long), torch.tensor([[A]])
    found = RejectedLogits(Fixed([0.0, 0.0, -inf]), 1.0, seen)(ids, torch.tensor([[0.0, 0.0, -inf]]))
    assert found.exp().tolist() == [pytest.approx([0.5, 0.5, 0.0])]
    with pytest.raises(BadDataError, match="excludes a token"):
        RejectedLogits(Fixed([0.0, 0.0, -inf]), 1.0, seen)(ids, torch.tensor([[0.0, 0.0, 0.0]]))


# --- drawing ----------------------------------------------------------------------------------------------


def test_pairs_are_drawn_from_the_reference_and_the_proposal_and_know_their_weights(models):
    beta, count = 1.0, 3000
    pairs = draw_pairs(*models, tiny_tokenizer(), list(BEFORES), beta=beta, samples=count, max_new_tokens=LIMIT,
                       batch_size=999, seed=7)  # fmt: skip
    responses = all_responses()
    for number, before in enumerate(BEFORES.values()):
        own = [pair for pair in pairs if pair.prompt == number]
        assert len(own) == count
        log_rho, log_weight = token_by_token(models, before, beta)
        got = torch.tensor([pair.log_weight for pair in own], dtype=torch.float64)
        rejected = torch.tensor([responses.index(pair.rejected) for pair in own])
        assert torch.allclose(got, log_weight[rejected], atol=1e-4)
        chosen = torch.tensor([responses.index(pair.chosen) for pair in own])
        for drawn, probs in ((chosen, log_probs(models[0], before).exp()), (rejected, log_rho.exp())):
            seen = torch.bincount(drawn, minlength=15).double()
            assert float(((seen - count * probs) ** 2 / (count * probs)).sum()) < 45.0  # once in 25 000 times
        weights = got.softmax(0)
        shares = torch.zeros(15, dtype=torch.float64).index_add(0, rejected, weights)
        errors = torch.tensor([float((weights**2 * ((rejected == y).double() - shares[y]) ** 2).sum().sqrt())
                               for y in range(15)])  # fmt: skip
        assert float(((shares - ideal(models, before, beta)).abs() / errors).max()) < 4.0
        assert abs(float(torch.corrcoef(torch.stack([chosen, rejected]).double())[0, 1])) < 4.0 / math.sqrt(count)


def test_the_seed_decides(models):
    def drawn(seed):
        return draw_pairs(*models, tiny_tokenizer(), ["a"], samples=9, max_new_tokens=LIMIT, seed=seed)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_models_over_different_tokens_or_without_room_are_refused(models):
    with pytest.raises(ValueError, match="same tokens"):
        draw_pairs(models[0], language_model(), tiny_tokenizer(), ["a"])
    with pytest.raises(ValueError, match="max_new_tokens"):
        draw_pairs(*models, tiny_tokenizer(), ["a"], max_new_tokens=100)


# --- rows -------------------------------------------------------------------------------------------------


def pair(prompt, chosen, rejected, log_weight):
    return DrawnPair(prompt, list(BEFORES.values())[prompt], chosen, rejected, log_weight)


def test_weights_and_counts_of_known_pairs():
    pairs = [
        pair(0, (A, END), (B, END), 0.0),
        pair(0, (A, END), (B, END), math.log(3.0)),
        pair(1, (A, END), (A, END), math.log(2.0)),
        pair(1, (B, B, B), (A, END), math.log(2.0)),
        pair(1, (END,), (A, END), 5.0),
    ]
    found = pair_rows(pairs, list(BEFORES), tiny_tokenizer())
    assert [row["weight"] for row in found.rows] == pytest.approx([0.5, 1.5, 1.0, 1.0])
    assert [row["log_weight"] for row in found.rows] == [pair.log_weight for pair in pairs[:4]]
    assert found.rows[3] | {"weight": 0, "log_weight": 0} == {
        "prompt": "b a b", "chosen": " b b b", "rejected": " a", "weight": 0, "log_weight": 0
    }  # fmt: skip
    assert found.effective == pytest.approx(16.0 / 4.5)
    assert found.effective_per_prompt == pytest.approx((0.8 + 1.0) / 2)
    assert (found.empty, found.cut, found.equal, found.repeated, found.changed) == (1, 1, 1, 1, 0)
    by_prompt = pair_rows(
        [*pairs[:2], *[pair(1, (A, END), (B, END), 9.0)] * 2], list(BEFORES), tiny_tokenizer(), "prompt"
    )
    assert [row["weight"] for row in by_prompt.rows] == pytest.approx([0.5, 1.5, 1.0, 1.0])


def test_what_no_weight_or_text_can_be_made_of_is_refused():
    one = pair(0, (A, END), (B, END), 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        pair_rows([one], ["a"], tiny_tokenizer(), "prompt")
    with pytest.raises(ValueError, match="normalise"):
        pair_rows([one], ["a"], tiny_tokenizer(), "Z")
    with pytest.raises(ValueError, match="all empty"):
        pair_rows([pair(0, (END,), (B, END), 0.0)], ["a"], tiny_tokenizer())


def test_texts_that_come_back_as_other_tokens_are_counted():
    words = test_llm.tokenizer()
    said = {"prompt": "a", "tokens": tuple(words("b c")["input_ids"])}
    before = prompt_ids(words, said["prompt"])
    text = response_text(words, before, (*said["tokens"], 3))
    assert text == " b c"
    good = DrawnPair(0, before, (*said["tokens"], 3), (*said["tokens"], 3), 0.0)
    assert pair_rows([good], ["a"], words).changed == 0
    assert pair_rows([good], ["a z"], words).changed == 2  # z is unknown: the prompt is read as another one


def test_dialogues_come_back_through_the_chat_template():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}</s> {% endif %}{% endfor %}"
    )
    said = [{"role": "user", "content": "a"}]
    before = prompt_ids(tokenizer, said)
    found = pair_rows([DrawnPair(0, before, (A, END), (B, A, END), 0.0)], [said], tokenizer)
    [row] = found.rows
    assert [message["content"].split() for message in (*row["chosen"], *row["rejected"])] == [["a"], ["b", "a"]]
    assert found.changed == 0


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def furnished(here, monkeypatch):
    """A directory in which the examples run, with responses of 8 tokens unless a command says otherwise."""
    for name, model in (("reference", language_model()), ("target", reference_model())):
        model.save_pretrained(here / name)
        test_llm.tokenizer().save_pretrained(here / name)
    (here / "prompts.jsonl").write_text("".join(f'{{"prompt": "{word}"}}\n' for word in ("a b", "c", "d e f")))
    monkeypatch.setenv("DIDSIM_LLM_PAIRS_MAX_NEW_TOKENS", "8")
    return here


@pytest.mark.parametrize("example", ALL_COMMANDS["llm pairs"].examples)
def test_every_example_runs_and_its_file_can_be_trained_on(run, furnished, example):
    done = run(*shlex.split(example)[1:], "-q")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    assert "Effective number" in done.stdout
    out = furnished / shlex.split(example)[-1]
    data = load_pairs(out)
    assert sum(data.pairs["weight"]) / len(data.pairs) == pytest.approx(1.0)
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert manifest["pairs"] == len(data.pairs)
    trainer = PreferenceTrainer(
        language_model(),
        args=settings(furnished / "run", max_steps=1),
        objective=ds.objective("dpo", beta=manifest["settings"]["beta"]),
        train_dataset=data.pairs,
        processing_class=test_llm.tokenizer(),
    )
    trainer.train()
    assert "weight" in trainer.train_dataset.column_names


COMMAND = ("llm", "pairs", "--reference", "reference", "--target", "target", "--prompts", "prompts.jsonl")


def test_the_seed_decides_what_is_written(run, furnished):
    for seed, name in ((1, "one"), (1, "two"), (2, "other")):
        done = run(*COMMAND, "--seed", seed, "--out", f"{name}.jsonl", "--json", "--samples", 3)
        document = json.loads(done.stdout)
        assert document["effective"] <= document["pairs"] <= 9
    one, two, other = ((furnished / f"{name}.jsonl").read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--out", "drawn.csv"), 2, "FILE.jsonl"),
        (("--out", "prompts.jsonl"), 7, "without a manifest"),
        (("--out", "nowhere/drawn.jsonl"), 7, "no folder"),
        (("--out", "x.jsonl", "--normalise", "prompt"), 2, "--samples"),
        (("--out", "x.jsonl", "--beta", "0"), 2, "beta"),
        (("--out", "x.jsonl", "--max-new-tokens", 100), 2, "max_new_tokens"),
        (("--out", "x.jsonl", "--target", "none"), 4, "no folder"),
        (("--out", "x.jsonl", "--prompts", "none.jsonl"), 4, "no file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, furnished, arguments, code, words):
    before = sorted(path.name for path in furnished.iterdir())
    done = run(*COMMAND, *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert words in done.stderr
    assert sorted(path.name for path in furnished.iterdir()) == before


def test_a_file_of_this_command_is_written_anew(run, furnished):
    for seed in (1, 2):
        assert run(*COMMAND, "--seed", seed, "--out", "drawn.jsonl").code == 0
    assert json.loads((furnished / "drawn.json").read_text())["settings"]["seed"] == 2


@pytest.mark.usefixtures("furnished")
def test_without_the_extra_one_line_says_what_to_install(run, monkeypatch):
    for name in [name for name in sys.modules if name == "didsim.llm" or name.startswith("didsim.llm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run(*COMMAND, "--out", "drawn.jsonl")
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "didsim[llm]" in done.stderr
