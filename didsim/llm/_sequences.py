"""Transformers in the exact world: on a space of sequences small enough to enumerate, where the truth is known.

A prompt is one token, and a response its tokens and the end, or T tokens: a transformer's next-token distributions
are those of a `Sequences` policy, no more and no less. It is trained by the trainer of language models, on all pairs
of responses at once, each weighted by its exact probability.
"""

import string
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl.trainer.dpo_config import DPOConfig

from didsim._checks import message
from didsim.llm._chatter import without_chatter
from didsim.llm._reading import Batch, Distinct, Reading, token_mask
from didsim.llm._trainer import PreferenceTrainer
from didsim.objectives import BoundObjective, Pairs
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.spaces import Sequences
from didsim.torch_bridge import to_array, to_tensor

END = "</s>"


def sequence_tokenizer(space: Sequences) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one letter a token; the end, which also pads, is token V."""
    letters = string.ascii_lowercase[: space.vocabulary]
    vocabulary = {token: number for number, token in enumerate([*letters, END])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")  # type: ignore[attr-defined]
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=END)


def sequence_transformer(space: Sequences, seed: int = 0, width: int = 64, scale: float = 2.0) -> LlamaForCausalLM:
    """Return a Llama of two layers with random weights, whose policy on the space is far from uniform."""
    config = LlamaConfig(
        vocab_size=space.num_actions,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=space.max_length + 2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=space.vocabulary,
        pad_token_id=space.vocabulary,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return model.eval()


def enumerate_policy(model: Any, space: Sequences, num_prompts: int) -> Policy:
    """Return π(y|x) of all responses to all prompts, [X, K], by a dense pass in float64 over every sequence."""
    responses = [space.tokens(response) for response in range(space.num_responses)]
    ends = [space.vocabulary] * space.max_length
    rows = [
        [space.vocabulary, prompt, *tokens, *ends[len(tokens) :]]
        for prompt in range(num_prompts)
        for tokens in responses
    ]
    with torch.no_grad():
        next_log_probs = torch.log_softmax(model(input_ids=torch.tensor(rows)).logits.double(), dim=-1)
    # position t + 1 follows t tokens; the prefixes are the responses of fewer than T tokens
    lengths = torch.tensor([len(tokens) for tokens in responses[: space.num_contexts]])
    every = next_log_probs.view(num_prompts, space.num_responses, space.max_length + 2, -1)
    prefixes = every[:, torch.arange(space.num_contexts), lengths + 1]
    return Policy(space.log_probs(to_array(prefixes)))


def train_transformer(
    problem: Problem, model: Any, loss: BoundObjective, *, steps: int = 2000, learning_rate: float = 2e-3
) -> Policy:
    """Train a transformer on the exact expected loss of a problem of sequences, and return the policy it becomes.

    Every step is one of Adam's on all pairs, in float32; the rate falls linearly to 0. The model before training is
    π_ref, and is changed.

    Args:
        problem: its responses are sequences, its reference is the policy of the model, and it has at most V prompts.
        model: from `sequence_transformer`.
        loss: what to train with.
        steps: of the optimiser.
        learning_rate: at the start.

    Returns:
        π(y|x), [X, K], enumerated.

    Raises:
        ValueError: if the problem is another one, or its reference is not the model's policy.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = population_trainer(problem, model, loss, folder, max_steps=steps, learning_rate=learning_rate)
        with without_chatter():
            trainer.train()
    return enumerate_policy(model.eval(), _space_of(problem), problem.num_prompts)


def population_trainer(
    problem: Problem, model: Any, loss: BoundObjective, folder: str | Path, **settings: Any
) -> "PopulationTrainer":
    """Return the trainer of `train_transformer`; it keeps nothing in its folder."""
    space = _space_of(problem)
    _check_reference(problem, enumerate_policy(model, space, problem.num_prompts))
    data = exact_pairs(problem)
    whole = {"per_device_train_batch_size": len(data), "max_length": 2 + space.max_length}
    with without_chatter():
        trainer = PopulationTrainer(
            model,
            args=DPOConfig(str(folder), **{**_PLAIN, **whole, **settings}),
            objective=loss,
            train_dataset=data,
            processing_class=sequence_tokenizer(space),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


_PLAIN: dict[str, Any] = {
    "lr_scheduler_type": "linear",
    "adam_beta2": 0.97,
    "max_grad_norm": 0.0,
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "activation_checkpointing": False,
    "dataloader_pin_memory": False,
}
"""Settings of a small run of Adam without clipping, which keeps nothing."""


def _space_of(problem: Problem) -> Sequences:
    """Return the space of a problem whose prompts can be written as one token each."""
    space = problem.space
    if not isinstance(space, Sequences):
        raise ValueError(message("the space of problem", "Sequences", str(space)))
    most = min(space.vocabulary, len(string.ascii_lowercase))
    if space.vocabulary > most or problem.num_prompts > most:
        raise ValueError(message("num_prompts and vocabulary", f"at most {most}", problem.num_prompts))
    return space


def _check_reference(problem: Problem, policy: Policy) -> None:
    apart = float(abs(problem.reference.log_probs - policy.log_probs).max())
    if not apart <= NEAR:
        hint = "Build the problem from enumerate_policy(model, …)."
        raise ValueError(message("log π_ref of problem", f"the model's, to {NEAR:g} nats", apart, hint))


NEAR = 1e-4
"""By so many nats a reference may differ from the model's policy, through rounding."""


def exact_pairs(problem: Problem) -> Dataset:
    """Return all pairs of responses to all prompts as text, each with its exact probability as `weight`."""
    space = _space_of(problem)
    letters = string.ascii_lowercase
    texts = ["".join(f" {letters[token]}" for token in space.tokens(k)) for k in range(space.num_responses)]
    weights = to_tensor(problem.prompt_weights[:, None, None] * problem.pair_probs())
    places = weights.nonzero().tolist()
    return Dataset.from_dict(
        {
            "prompt": [END + letters[x] for x, _, _ in places],
            "chosen": [texts[i] for _, i, _ in places],
            "rejected": [texts[j] for _, _, j in places],
            "weight": weights[weights > 0].tolist(),
        }
    )


class PopulationTrainer(PreferenceTrainer):
    """A trainer whose only batch is all of the data, laid out once.

    It reads each sequence once, however many pairs it is in; without dropout that changes nothing.
    """

    def get_train_dataloader(self) -> Any:
        """Return all of the data as one batch."""
        return DataLoader([next(iter(super().get_train_dataloader()))], batch_size=None)  # type: ignore[arg-type]

    def _read(self, model: Any, inputs: Batch, with_hidden: bool = False, with_routers: bool = False) -> Reading:
        first, index = self._distinct(inputs["input_ids"])
        shared = {name: inputs[name][first] for name in ("input_ids", "attention_mask", "completion_mask")}
        found = super()._read(model, shared, with_hidden, with_routers)
        return _repeated(found, token_mask(shared), index)

    def _reference(self, inputs: Batch) -> Reading:
        """Return how π_ref reads a batch; of the data, which come first, this is remembered."""
        ids = inputs["input_ids"]
        if self._known is not None and self._known[0] is ids:
            return self._known[1]
        found = super()._reference(inputs)
        if self._known is None:
            self._known = (ids, found)
        return found

    def _note(self, pairs: Pairs, policy: Reading, inputs: Batch) -> None:
        """Log nothing: what becomes of the policy is enumerated at the end."""

    def _distinct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each sequence stands first, and which of them each row is; known of the last batch."""
        if self._last is None or self._last[0] is not ids:
            rows, index = torch.unique(ids, dim=0, return_inverse=True)
            first = torch.empty(len(rows), dtype=torch.long).scatter_(0, index, torch.arange(len(index)))
            self._last = (ids, first, index)
        return self._last[1:]

    _last: tuple[Tensor, Tensor, Tensor] | None = None
    _known: tuple[Tensor, Reading] | None = None


def _repeated(reading: Reading, mask: Tensor, index: Tensor) -> Reading:
    """Return what is read of rows for each that is the same."""
    fields = {name: getattr(reading.output, name) for name in ("entropy", "mean_logits", "is_top1")}
    output = SimpleNamespace(**{name: None if field is None else field[index] for name, field in fields.items()})
    if reading.hidden is None:
        return Reading(reading.log_probs[index], output)
    places = mask.new_zeros(mask.shape, dtype=torch.long).masked_scatter(mask, torch.arange(len(reading.hidden)))
    hidden = reading.hidden[places[index][mask[index]]]
    return Reading(reading.log_probs[index], output, hidden, reading.head, Distinct(mask, reading.hidden, index))
