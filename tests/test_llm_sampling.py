"""Responses drawn from language models, against every response of a model that has only few.

Here too is what other tests share: models over two letters and an end, of which all responses can be enumerated.
"""

import functools
from collections import Counter
from itertools import product

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from didsim.errors import BadDataError
from didsim.llm import sample_responses
from didsim.llm._sampling import score

pytestmark = test_llm.pytestmark

LIMIT = 3
"""Responses are cut off after so many tokens."""

A, B, END = range(3)


@functools.cache
def tiny_tokenizer():
    """Two letters and an end."""
    words = Tokenizer(models.WordLevel({"a": A, "b": B, "</s>": END}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="</s>", pad_token="</s>", eos_token="</s>")


def tiny_model(seed=0, scale=30.0):
    """A tiny Llama over three tokens, far from uniform."""
    torch.manual_seed(seed)
    sizes = {**test_llm.SIZES, "hidden_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(
        vocab_size=3, num_key_value_heads=1, max_position_embeddings=32, pad_token_id=END, eos_token_id=END, **sizes
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return model


def positioned_model(seed):
    """A tiny GPT-2, which knows how often a letter came: so it can learn every distribution over responses."""
    torch.manual_seed(seed)
    sizes = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2, "tie_word_embeddings": False}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=3, bos_token_id=2, eos_token_id=2, **sizes)).eval()
    with torch.no_grad():
        for weight in (model.transformer.wte.weight, model.transformer.wpe.weight):
            weight.mul_(50.0)
        model.lm_head.weight.mul_(10.0)
    return model


def all_responses():
    """Every response: at most LIMIT tokens, with its end unless it is cut off."""
    ended = [(*letters, END) for size in range(LIMIT) for letters in product((A, B), repeat=size)]
    return ended + list(product((A, B), repeat=LIMIT))


def log_probs(model, before):
    """Log π of every response, token by token, from whole logits without padding: float64 [N]."""
    found = []
    for tokens in all_responses():
        ids = torch.tensor([[*before, *tokens]])
        with torch.no_grad():
            rows = model(ids).logits[0].double().log_softmax(-1)
        found.append(sum(rows[len(before) + t - 1, token] for t, token in enumerate(tokens)))
    return torch.stack(found)


def test_all_responses_are_all_there_are():
    assert float(log_probs(tiny_model(), (A, B)).exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_scores_are_those_of_whole_logits():
    model, befores = tiny_model(), [(A,), (B, A, B)]
    for before in befores:
        want = log_probs(model, before)
        assert torch.allclose(score(model, tiny_tokenizer(), [before] * len(want), all_responses(), 4), want, atol=1e-5)
    mixed = score(model, tiny_tokenizer(), befores, [(A, END), (B, B, B)], 2)
    want = [log_probs(model, x)[all_responses().index(y)] for x, y in zip(befores, [(A, END), (B, B, B)], strict=True)]
    assert torch.allclose(mixed, torch.stack(want), atol=1e-5)


def test_responses_come_as_often_as_the_model_says_whatever_its_own_settings():
    model, count = tiny_model(), 4000
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.1, top_k=1, top_p=0.5, min_new_tokens=3)
    drawn = sample_responses(model, tiny_tokenizer(), ["a", "b a b"], count, LIMIT, seed=1, batch_size=1000)
    assert model.generation_config.top_k == 1  # left as it was
    for number, before in enumerate([(A,), (B, A, B)]):
        probs = log_probs(model, before).exp()
        own = [sample for sample in drawn if sample.prompt == number]
        assert {sample.before for sample in own} == {before}
        seen = Counter(sample.tokens for sample in own)
        assert set(seen) <= set(all_responses())
        shares = torch.tensor([seen[tokens] / count for tokens in all_responses()]).double()
        errors = (shares - probs) / (probs * (1 - probs) / count).sqrt()
        assert float(errors.abs().max()) < 4.0


def test_a_sample_knows_its_log_prob_and_whether_it_was_cut_off():
    model = tiny_model()
    for sample in sample_responses(model, tiny_tokenizer(), ["a b"], 50, LIMIT, seed=0):
        want = log_probs(model, (A, B))[all_responses().index(sample.tokens)]
        assert sample.log_prob == pytest.approx(float(want), abs=1e-5)
        assert sample.cut == (END not in sample.tokens)


def test_the_seed_decides_and_the_callers_draws_go_on():
    model, words = tiny_model(), tiny_tokenizer()
    state = torch.get_rng_state()
    one, two, other = (sample_responses(model, words, ["a"], 20, LIMIT, seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prompt_without_tokens_begins_with_a_first_token():
    [sample] = sample_responses(tiny_model(), tiny_tokenizer(), [""], 1, LIMIT, seed=0)
    assert sample.before == (END,)


def test_messages_without_a_chat_template_are_bad_data():
    with pytest.raises(BadDataError, match="template"):
        sample_responses(tiny_model(), tiny_tokenizer(), [[{"role": "user", "content": "a"}]], 1, LIMIT, seed=0)
