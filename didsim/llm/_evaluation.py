"""What a policy makes of given pairs, each by itself: the numbers that training logs of the same model as means."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig

from didsim._checks import message
from didsim.errors import BadDataError
from didsim.llm._metrics import of_pairs
from didsim.llm._reading import Batch, Reading
from didsim.llm._trainer import PreferenceTrainer
from didsim.objectives import BoundObjective, Pairs, objective

LEARNED = frozenset({"prior", "masks"})
"""Needs for which something was learned beside the policy, which is not read back."""

PLACE = "didsim_row"
"""The column with the number of each pair; those whose prompts alone are too long are left out."""


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """Take the mean of independent values; one alone has no error, NaN."""
        values = values.double()
        count = len(values)
        spread = float(values.std()) if count > 1 else float("nan")
        return cls(float(values.mean()), spread / count**0.5)


@dataclass(frozen=True)
class PairScores:
    """What a policy makes of each pair.

    Attributes:
        rows: the numbers of the pairs; those whose prompt alone fills `max_length` are left out.
        values: by the names of the training log, [B] each, in nats; `rewards/*` are of log π/π_ref. With an objective
            there are also its own, `dpo/rewards/margins` and so on, and its loss, `dpo/loss`.
    """

    rows: tuple[int, ...]
    values: dict[str, Tensor]

    def estimates(self) -> dict[str, Estimate]:
        """Return the mean of each over pairs, which count as independent."""
        return {name: Estimate.of(values) for name, values in self.values.items()}


class _Examiner(PreferenceTrainer):
    """Keeps what a trainer would log of each pair."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.kept: list[dict[str, Tensor]] = []
        self.log_ratio = objective("dpo")  # at β = 1 it is the reward that DPO implies

    def _note(self, pairs: Pairs, policy: Reading, inputs: Batch) -> None:
        own = {name: value for name, value in of_pairs(self.objective, pairs).items() if name.startswith("rewards/")}
        own["loss"] = self._losses(pairs)
        prefixed = {f"{self.objective.name}/{name}": value for name, value in own.items()}
        self.kept.append({**of_pairs(self.log_ratio, pairs), **prefixed})


def score_pairs(
    model: Any,
    reference: Any,
    tokenizer: Any,
    pairs: Dataset,
    *,
    loss: BoundObjective | None = None,
    batch_size: int = 8,
    max_length: int = 1024,
    told: Callable[[int], object] | None = None,
) -> PairScores:
    """Compare a policy with its reference on preference pairs, prepared as for training.

    Args:
        model: the policy π.
        reference: π_ref, over the same tokens.
        tokenizer: the tokenizer of both.
        pairs: as of `load_pairs`.
        loss: an objective whose implied rewards and loss are wanted too. The mean loss weighs pairs as training on
            them would; an objective that looks at the whole batch sees `batch_size` pairs.
        batch_size: pairs that are looked at together.
        max_length: the most tokens of prompt and response, at which responses are cut off.
        told: what is called with the number of pairs after each batch, such as the `update` of a progress bar.

    Raises:
        BadDataError: if both models do not know the same tokens, or all prompts are too long.
        ValueError: if what the objective has learned beside the policy is not known.
    """
    check_same_tokens(model, reference, tokenizer)
    if loss is not None and loss.needs & LEARNED:
        hint = "What it learns beside the policy is not read back."
        raise ValueError(message("objective", "one of the policy and its reference alone", loss.name, hint))
    numbered = pairs.add_column(PLACE, list(range(len(pairs))))  # pyright: ignore[reportCallIssue]
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Examiner(
            model,
            reference,
            _settings(folder, batch_size, max_length),
            objective=loss or "dpo",
            train_dataset=numbered,
            processing_class=tokenizer,
        )
        data: Any = trainer.train_dataset
        if len(data) == 0:
            raise BadDataError(f"Every prompt alone has {max_length} tokens or more. Raise max_length.")
        for batch in trainer.get_eval_dataloader(data):
            trainer.prediction_step(trainer.model.eval(), batch, prediction_loss_only=True)
            if told is not None:
                told(len(batch["input_ids"]) // 2)
    names = [name for name in trainer.kept[0] if loss is not None or not name.startswith("dpo/")]
    values = {name: torch.cat([part[name] for part in trainer.kept]).double().cpu() for name in names}
    return PairScores(tuple(data[PLACE]), values)


def check_same_tokens(model: Any, reference: Any, tokenizer: Any) -> None:
    """Refuse models that speak of different tokens.

    Raises:
        BadDataError: if their vocabularies differ in size, or the tokenizer has more tokens.
    """
    sizes = [one.config.get_text_config().vocab_size for one in (model, reference)]
    if sizes[0] != sizes[1]:
        raise BadDataError(
            f"The model has {sizes[0]} tokens, the reference {sizes[1]}: their responses differ in kind."
        )


def _settings(folder: str, batch_size: int, max_length: int) -> DPOConfig:
    return DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        max_length=max_length,
        report_to=[],
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
