"""Sums over the vocabulary from hidden states in chunks, against whole next-token distributions; and half precision."""

import copy

import pytest
import test_llm
import torch
from test_llm import IDS, SIZES, language_model, reference_model, steps_of, trainer_of
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from didsim.llm import HiddenTokens
from didsim.llm._reading import read
from didsim.objectives import NextTokens

pytestmark = test_llm.pytestmark

SUMS = {
    "forward_kl": lambda sums: sums.forward_kl(),
    "reverse_kl": lambda sums: sums.reverse_kl(),
    "log_tilt": lambda sums: sums.log_tilt(0.3),
    "log_tilt backwards": lambda sums: sums.log_tilt(-0.01),
    "log_tilt of a tensor": lambda sums: sums.log_tilt(torch.tensor(0.3, dtype=torch.float64)),
    "log_collision": lambda sums: sums.log_collision(),
}

MASKS = {
    "ragged": [[0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 1, 1]],
    "full": [[1, 1], [1, 1]],
    "a row of none": [[0, 0, 0], [1, 1, 0]],
    "empty": [[0, 0, 0], [0, 0, 0]],
}


def hidden_and_heads(mask, bias, dtype=torch.float64, size=(3, 7), spread=1.0):
    """Leaves: hidden states of the policy and the reference, and their heads."""
    generator = torch.Generator().manual_seed(5)
    width, vocabulary = size
    heads = [torch.nn.Linear(width, vocabulary, bias=bias, dtype=torch.float64) for _ in range(2)]
    for head in heads:
        for part in head.parameters():
            part.data = 2.0 * torch.randn(part.shape, generator=generator, dtype=torch.float64)
    count = int(mask.sum())
    hidden = [spread * torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [part.to(dtype).requires_grad_() for part in hidden], [head.to(dtype) for head in heads]


def dense(mask, hidden, heads):
    """Whole distributions at each position, in float64, of which those without a token are anything."""
    tables = []
    for states, head in zip(hidden, heads, strict=True):
        logits = torch.full((*mask.shape, head.out_features), 0.25, dtype=torch.float64)
        tables.append(logits.masked_scatter(mask[..., None], head(states)).log_softmax(-1))
    return NextTokens(tables[0], tables[1].detach())


def assert_same_sums(got, want, leaves, mask):
    """Values, and gradients of a sum with unequal weights."""
    want = torch.where(mask, want, 0.0)
    assert got.shape == mask.shape
    torch.testing.assert_close(got, want, rtol=0.0, atol=1e-10)
    weights = torch.linspace(-1.0, 2.0, mask.numel(), dtype=torch.float64).reshape(mask.shape)
    for ours, dense_one in zip(
        *(torch.autograd.grad((weights * part).sum(), leaves, retain_graph=True) for part in (got, want)), strict=True
    ):
        torch.testing.assert_close(ours, dense_one, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("mask", [torch.tensor(mask).bool() for mask in MASKS.values()], ids=MASKS)
@pytest.mark.parametrize("name", SUMS)
def test_each_sum_in_chunks_is_that_of_whole_distributions_in_value_and_gradient(name, mask, chunk, bias):
    hidden, heads = hidden_and_heads(mask, bias)
    tokens = HiddenTokens(mask, hidden[0], heads[0], hidden[1], heads[1], chunk)
    leaves = [hidden[0], *heads[0].parameters()]
    if mask.any():
        assert_same_sums(SUMS[name](tokens), SUMS[name](dense(mask, hidden, heads)), leaves, mask)
    else:
        got = SUMS[name](tokens)
        assert torch.equal(got, torch.zeros(mask.shape, dtype=torch.float64))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("mask", [torch.tensor(mask).bool() for mask in MASKS.values()], ids=MASKS)
@pytest.mark.parametrize("name", SUMS)
def test_a_half_has_the_sums_of_its_rows(name, mask, chunk):
    hidden, heads = hidden_and_heads(mask, bias=False)
    tokens = HiddenTokens(mask, hidden[0], heads[0], hidden[1], heads[1], chunk)
    want = torch.where(mask, SUMS[name](dense(mask, hidden, heads)), 0.0).chunk(2)
    for number in (0, 1):
        torch.testing.assert_close(SUMS[name](tokens.half(number)), want[number], rtol=0.0, atol=1e-10)


def test_the_reference_gets_no_gradient():
    mask = torch.tensor(MASKS["ragged"]).bool()
    hidden, heads = hidden_and_heads(mask, bias=True)
    for name, sums in SUMS.items():
        sums(HiddenTokens(mask, hidden[0], heads[0], hidden[1], heads[1], 3)).sum().backward()
        assert hidden[0].grad is not None, name
    assert hidden[1].grad is None
    assert all(part.grad is None for part in heads[1].parameters())


def test_divergences_need_a_reference_and_the_collision_does_not():
    mask = torch.tensor(MASKS["ragged"]).bool()
    hidden, heads = hidden_and_heads(mask, bias=True)
    alone = HiddenTokens(mask, hidden[0], heads[0])
    beside = HiddenTokens(mask, hidden[0], heads[0], hidden[1], heads[1])
    assert torch.equal(alone.log_collision(), beside.log_collision())
    with pytest.raises(ValueError, match="reference's next-token distributions"):
        alone.forward_kl()


def test_equal_policies_have_no_divergence_and_no_tilt():
    mask = torch.tensor(MASKS["ragged"]).bool()
    hidden, heads = hidden_and_heads(mask, bias=True, dtype=torch.float32)
    tokens = HiddenTokens(mask, hidden[0], heads[0], hidden[0].detach().clone(), heads[0], 3)
    for name in ("forward_kl", "reverse_kl", "log_tilt"):
        assert torch.equal(SUMS[name](tokens), torch.zeros(mask.shape)), name


def test_half_precision_states_have_sums_of_single_precision():
    mask = torch.ones(6, 20, dtype=torch.bool)
    hidden, heads = hidden_and_heads(mask, bias=False, dtype=torch.bfloat16, size=(16, 300), spread=0.3)
    tokens = HiddenTokens(mask, hidden[0], heads[0], hidden[1], heads[1], 7)
    logits = [head(part).double() for head, part in zip(heads, hidden, strict=True)]
    log_p, log_ref = (part.log_softmax(-1).reshape(*mask.shape, -1) for part in logits)
    got, want = tokens.forward_kl(), NextTokens(log_p, log_ref).forward_kl()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def test_under_autocast_tokens_and_sums_are_of_single_precision(tmp_path):
    trainer = trainer_of("tdpo1", tmp_path, reference=reference_model(), changes={"bf16": True, "max_steps": 1})
    seen = []
    before = trainer._pairs
    trainer._pairs = lambda *parts: seen.append(before(*parts)) or seen[-1]
    trainer.train()
    for side in (seen[0].chosen, seen[0].rejected):
        tokens = side.tokens
        sums = (tokens.sums.forward_kl(), tokens.sums.reverse_kl(), tokens.sums.log_collision())
        assert {part.dtype for part in (tokens.log_pi, tokens.log_ref, side.log_pi, *sums)} == {torch.float32}


# --- half precision ---------------------------------------------------------------------------------------

LENGTH, PROMPT, PAIRS = 64, 5, 16


def larger_model(seed, vocabulary, sharpness):
    """A Llama of random weights with a vocabulary that is worth its name."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{**SIZES, **IDS, "hidden_size": 64},
        vocab_size=vocabulary,
        num_key_value_heads=1,
        max_position_embeddings=LENGTH,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= sharpness
    return model


def margin(log_probs, ref_log_probs):
    """Return log π_w − log π_l less the same of the reference, of [2B, T] log-probabilities, in their precision."""
    ratio = log_probs.sum(1) - ref_log_probs.sum(1)
    return ratio[:PAIRS] - ratio[PAIRS:]


def with_whole_logits(model, batch):
    """Log-probabilities of tokens, 0 where masked, by a log-softmax of all logits in the precision of the model."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    taken = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return taken.masked_fill(batch["completion_mask"][:, 1:] == 0, 0.0)


@pytest.mark.parametrize("sharpness", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("vocabulary", [512, 4096])
def test_half_precision_margins_err_five_times_less_than_those_of_a_half_precision_log_softmax(
    vocabulary, sharpness, record_property
):
    policy, reference = (larger_model(0, vocabulary, sharpness) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for parameter in reference.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.02 * (parameter.std() if parameter.ndim > 1 else 0.0) * noise
    half = [model.to(torch.bfloat16) for model in (policy, reference)]
    length = torch.randint(20, LENGTH, (2 * PAIRS, 1), generator=generator)
    attention = torch.arange(LENGTH) < length
    batch = {
        "input_ids": torch.randint(4, vocabulary, (2 * PAIRS, LENGTH), generator=generator),
        "attention_mask": attention.long(),
        "completion_mask": (attention & (torch.arange(LENGTH) >= PROMPT)).long(),
    }
    exact = margin(*(with_whole_logits(copy.deepcopy(model).float(), batch) for model in half))
    whole = [with_whole_logits(model, batch) for model in half]
    for model in half:
        add_fused_lm_head(model)
    with torch.no_grad():
        readings = [read(model, model, batch).log_probs for model in half]
    assert {part.dtype for part in readings} == {torch.float32}
    ways = {
        "ours": margin(*readings),
        "log-softmax and sum in bf16": margin(*whole),
        "log-softmax in bf16, sum in float32": margin(*(part.float() for part in whole)),
    }
    errors = {way: float((part.float() - exact).square().mean().sqrt()) for way, part in ways.items()}
    record_property("root mean square errors", errors)
    assert 0.0 < 5.0 * errors["ours"] <= errors["log-softmax and sum in bf16"], errors


@pytest.mark.parametrize("name", ["dpo", "tdpo1", "kto", "rmipo", "wpo"])
def test_half_precision_weights_train(name, tmp_path):
    model, reference = (make().to(torch.bfloat16) for make in (language_model, reference_model))
    half = steps_of(trainer_of(name, tmp_path / "half", model=model, reference=reference, changes={"max_steps": 2}))
    single = steps_of(trainer_of(name, tmp_path / "single", reference=reference_model(), changes={"max_steps": 2}))
    assert half[0]["loss"] == pytest.approx(single[0]["loss"], rel=0.05)
    assert half[0]["grad_norm"] == pytest.approx(single[0]["grad_norm"], rel=0.1)
