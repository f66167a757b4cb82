"""The entropy of a language model's responses, and that of the DID between two models.

Source: "Differential Information Distribution" paper, Appendix K and K.1; `didsim.entropy_probe` is the exact case.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig

from didsim._checks import check_integer, message
from didsim.differential import SAMPLES_PER_FIT, slope_signs
from didsim.llm._sampling import Sample, sample_responses, score
from didsim.llm._trainer import PreferenceTrainer
from didsim.torch_bridge import to_array

Told = Callable[[int], object]


@dataclass(frozen=True)
class EntropyEstimate:
    """A Monte-Carlo estimate of H(π), the mean over prompts of H(π(·|x)), in nats.

    Attributes:
        entropy: −mean log π(y|x).
        error: its standard error, for these prompts.
        per_token: −Σ log π(y|x) / Σ |y|.
        responses: how many were drawn.
        cut: how many of them were cut off before their end.
    """

    entropy: float
    error: float
    per_token: float
    responses: int
    cut: int


@dataclass(frozen=True)
class DidEntropy:
    """What a probe π̃ says of the DID q_{π/π_ref}.

    Attributes:
        model: H(π).
        reference: H(π_ref).
        probe: H(π̃), which estimates H(q) where π̃ came near q.
        beta_accuracy: the share of fits, of log π̃ on log π/π_ref to four samples of π̃, whose slope β′ is not
            negative; NaN if none determines a slope.
        fits: how many determine one.
    """

    model: EntropyEstimate
    reference: EntropyEstimate
    probe: EntropyEstimate
    beta_accuracy: float
    fits: int

    @property
    def difference(self) -> float:
        """H(π̃) − H(π_ref), in nats."""
        return self.probe.entropy - self.reference.entropy

    @property
    def error(self) -> float:
        """The standard error of the difference."""
        return (self.probe.error**2 + self.reference.error**2) ** 0.5

    @property
    def sentence(self) -> str:
        """What it means, by Claim 4.1 of the DID paper."""
        if isnan(self.beta_accuracy) or self.beta_accuracy < ENOUGH:
            return "The probe did not come near the DID, as its β′-accuracy tells: its entropy is not that of the DID."
        if abs(self.difference) < SURE * self.error:
            return "The entropy of the DID cannot be told from that of the reference: draw more samples."
        found = f"{abs(self.difference):.4g} ± {self.error:.2g} nats"
        if self.difference > 0.0:
            meaning = "as where an update smooths the reference and log-probabilities of chosen responses fall"
            return f"The DID has the higher entropy, by {found}, {meaning} (Claim 4.1)."
        return f"The DID has the lower entropy, by {found}, as where an update reinforces the reference (Claim 4.1)."


ENOUGH = 0.6
"""A probe near the DID has a β′-accuracy near 1, one that learnt nothing ½. The paper doubts 0.28 and takes 0.80."""

SURE = 2.0
"""Standard errors by which two entropies must differ to be told apart."""


def response_entropy(samples: Sequence[Sample]) -> EntropyEstimate:
    """Estimate H(π) from responses that were drawn from π, at least two to each prompt and as many to each.

    Responses are exact for π cut off after `max_new_tokens`, and so is the entropy: that a response ends there is
    certain, and adds nothing.

    Raises:
        ValueError: if prompts have different numbers of responses, or one only.

    Source: Appendix K.
    """
    surprise = _by_prompt([-sample.log_prob for sample in samples], samples)
    if surprise.shape[1] < 2:
        raise ValueError(message("samples", "at least 2 for each prompt", surprise.shape[1]))
    return EntropyEstimate(
        entropy=float(surprise.mean()),
        error=float((surprise.var(1).mean() / surprise.numel()).sqrt()),
        per_token=float(surprise.sum()) / sum(len(sample.tokens) for sample in samples),
        responses=len(samples),
        cut=sum(sample.cut for sample in samples),
    )


def _by_prompt(values: Sequence[float], samples: Sequence[Sample]) -> Tensor:
    """Lay out a number of each sample by prompts, float64 [X, N]."""
    groups: dict[int, list[float]] = {}
    for value, sample in zip(values, samples, strict=True):
        groups.setdefault(sample.prompt, []).append(value)
    if len({len(group) for group in groups.values()}) != 1:
        raise ValueError(message("samples", "as many for each prompt", "different numbers, or none"))
    return torch.tensor(list(groups.values()), dtype=torch.float64)


def did_entropy(
    model: Any,
    reference: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    probe_prompts: Sequence[Any] | None = None,
    samples: int = 4,
    pairs: int = 16,
    learning_rate: float = 1e-6,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    seed: int = 42,
    told: Told | None = None,
) -> DidEntropy:
    """Estimate the entropy of the DID q_{π/π_ref} ∝ π/π_ref by the paper's procedure.

    A probe π̃ starts at π_ref and is trained with r = log π̃ on pairs y_w ~ π, y_l ~ π_ref that are drawn for it, whose
    optimum is q; then H(π̃) is estimated from its samples. The paper draws its pairs greedily; its theory, and this,
    draws them at temperature 1.

    Args:
        model: π.
        reference: π_ref, over the same tokens.
        tokenizer: theirs.
        prompts: texts, or lists of messages, for which entropies are estimated.
        probe_prompts: those on which the probe is trained; the same unless given. The paper takes others.
        samples: responses for each prompt, from which entropies are estimated.
        pairs: pairs for each prompt, on which the probe is trained, once.
        learning_rate: of RMSprop, reached after a tenth of the steps, from where it falls to 0 in a line.
        max_new_tokens: responses are cut off after so many tokens.
        batch_size: responses drawn at once, and pairs of a training step.
        seed: of all draws.
        told: what is called with the number of responses that were drawn, or trained on.

    Raises:
        ValueError: if an argument is not acceptable.

    Source: Appendix K, K.1.
    """
    check_integer("samples", samples, SAMPLES_PER_FIT, 10**6)
    check_same_tokens(model, reference)
    seeds = iter(torch.randint(2**31, (6,), generator=torch.Generator().manual_seed(seed)).tolist())

    def drawn(source: Any, asked: Sequence[Any], count: int) -> list[Sample]:
        return sample_responses(source, tokenizer, asked, count, max_new_tokens, next(seeds), batch_size, told)

    asked = prompts if probe_prompts is None else probe_prompts
    data = pairs_of_samples(drawn(model, asked, pairs), drawn(reference, asked, pairs))
    settings = probe_settings(len(data), batch_size, learning_rate, next(seeds), model.dtype == torch.bfloat16)
    probe = trained_probe(reference, tokenizer, data, settings, told)
    of_model, of_reference, of_probe = (drawn(source, prompts, samples) for source in (model, reference, probe))
    befores, responses = ([getattr(s, name) for s in of_probe] for name in ("before", "tokens"))
    log_pi, log_ref = (score(source, tokenizer, befores, responses, batch_size) for source in (model, reference))
    accuracy, fits = sample_beta_accuracy(of_probe, (log_pi - log_ref).tolist())
    estimates = (response_entropy(of_model), response_entropy(of_reference), response_entropy(of_probe))
    return DidEntropy(*estimates, accuracy, fits)


def check_same_tokens(model: Any, other: Any) -> None:
    """Refuse two models over different tokens.

    Raises:
        ValueError: if the sizes of their vocabularies differ.
    """
    sizes = [part.get_input_embeddings().num_embeddings for part in (model, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(message("both models", "over the same tokens", f"{sizes[0]} and {sizes[1]} of them"))


def pairs_of_samples(chosen: Sequence[Sample], rejected: Sequence[Sample]) -> Dataset:
    """Return pairs for training as tokens, in the columns that TRL makes of texts."""
    return Dataset.from_list(
        [
            {"prompt_ids": list(one.before), "chosen_ids": list(one.tokens), "rejected_ids": list(two.tokens)}
            for one, two in zip(chosen, rejected, strict=True)
        ]
    )


def sample_beta_accuracy(samples: Sequence[Sample], log_ratios: Sequence[float]) -> tuple[float, int]:
    """Return how often the slope β′ of log π̃ on log π/π_ref, fitted to four samples of the probe, is not negative.

    Fours of equal responses, or of equal log-ratios, determine no slope and are left out.

    Args:
        samples: of the probe π̃; those of a prompt are taken in fours.
        log_ratios: log π/π_ref of each.

    Returns:
        A share, NaN if no four determines a slope; and how many do.

    Source: Appendix K.1.
    """
    numbers = {tokens: number for number, tokens in enumerate({sample.tokens for sample in samples})}
    which = _fours([numbers[sample.tokens] for sample in samples], samples)
    differ = (which != which[:, :1]).any(1)
    x, y = _fours(log_ratios, samples)[differ], _fours([sample.log_prob for sample in samples], samples)[differ]
    signs = slope_signs(to_array(x), to_array(y))
    return (float((signs >= 0.0).mean()) if len(signs) else nan), len(signs)


def _fours(values: Sequence[float], samples: Sequence[Sample]) -> Tensor:
    """Lay out a number of each sample in rows of four of one prompt; what is left over of a prompt is left out."""
    rows = _by_prompt(values, samples)
    whole = rows.shape[1] - rows.shape[1] % SAMPLES_PER_FIT
    return rows[:, :whole].reshape(-1, SAMPLES_PER_FIT)


def probe_settings(pairs: int, batch_size: int, learning_rate: float, seed: int, halves: bool) -> DPOConfig:
    """Return the paper's settings for a probe: RMSprop without weight decay, one epoch, a linear warm-up."""
    return DPOConfig(
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        optim="rmsprop",
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=-(-pairs // batch_size) // 10,
        max_length=None,
        seed=seed,
        bf16=halves,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def trained_probe(reference: Any, tokenizer: Any, data: Dataset, settings: DPOConfig, told: Told | None = None) -> Any:
    """Train a copy of the reference towards the DID of the pairs, and return it; its weights are float32 meanwhile."""
    probe = copy.deepcopy(reference).float()
    with tempfile.TemporaryDirectory() as folder:
        settings.output_dir = folder
        trainer = _OfTokens(
            probe, reference, settings, objective="entropy_probe", train_dataset=data, processing_class=tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        if told is not None:
            trainer.add_callback(_Telling(told, settings.per_device_train_batch_size))
        trainer.train()
    vars(probe).pop("forward", None)  # its fused head, copied, calls the reference; nor are accelerate's casts wanted
    return probe.to(reference.dtype).eval()


class _OfTokens(PreferenceTrainer):
    """A trainer whose data are tokens already."""

    def _prepare_dataset(self, dataset: Any, *_others: Any, **_named: Any) -> Any:
        return dataset


class _Telling(TrainerCallback):
    """Tell of the pairs of each step."""

    def __init__(self, told: Told, pairs: int) -> None:
        self.told, self.pairs = told, pairs

    def on_step_end(self, *_others: Any, **_named: Any) -> None:
        self.told(self.pairs)
