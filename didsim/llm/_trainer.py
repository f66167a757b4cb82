"""TRL's DPO trainer with any registered objective in place of its losses."""

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.utils import use_adapter

from didsim._checks import message
from didsim.llm._companions import NAME, companion_of
from didsim.llm._metrics import measures, of_tokens
from didsim.llm._projection import SecondGradient
from didsim.llm._ranks import across_ranks
from didsim.llm._reading import (
    Batch,
    Reading,
    log_prior,
    logits,
    mismatched,
    pairs_of,
    read,
    token_masks,
    without_prompts,
)
from didsim.objectives import NEEDS, BoundObjective, Pairs, objective

TESTED_TRL = ("1.16",)
"""The versions of TRL with which the tests of this module pass."""

SERVED = frozenset({"reference", "length", "tokens", "vocabulary", "marginal", "mean_kl", "batch", "prior", "masks"})
"""What a batch of a language model can offer."""

BESIDE_SUMS = frozenset({"tokens", "vocabulary", "mean_kl", "prior", "masks"})
"""Needs for which the reference is asked for more than the sums that can be precomputed."""

BESIDE_FORWARD = frozenset({"vocabulary", "prior", "masks"})
"""Needs for which parameters are read outside the model's forward pass, where sharded ones are not whole."""

UNREAD = (
    *("loss_type", "loss_weights", "beta", "label_smoothing", "ld_alpha"),
    *("f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau"),
)
"""Fields of TRL's DPOConfig that its losses read, and the objective does not."""


NOT_LINEAR = (
    *("final_logit_softcapping", "logit_scale"),
    *("output_multiplier", "lm_head_multiplier", "logits_scaling"),
)
"""Fields of a model's configuration by which its logits are more than a linear function of last hidden states."""


@dataclass
class PairCollator(DataCollatorForPreference):
    """TRL's collator, which carries the `weight` of each pair too, where a dataset has one."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad the pairs of a batch, as TRL does."""
        batch = super().torch_call(examples)
        if "weight" in examples[0]:
            batch["weight"] = torch.tensor([example["weight"] for example in examples], dtype=torch.float32)
        return batch


class PreferenceTrainer(DPOTrainer):
    """`trl.DPOTrainer`, trained with a registered objective.

    Data preparation, chat templates, adapters, FSDP and DeepSpeed, checkpoints and resuming are TRL's. The loss of a
    batch is the mean over its pairs of the very function that `didsim.train` and `didsim.solve` use, with its
    defaults: DPO's β is 1 unless you give another one, and not TRL's 0.1. A column `weight` of the data multiplies the
    loss of each pair, relative to the mean weight of the training data (of a stream: to 1).

    Where an objective looks at the whole batch (z-scores, sorting), it sees the pairs of one micro-batch on all
    processes together: there gradient accumulation is not the same as a larger batch.

    Args:
        model: as of `trl.DPOTrainer`.
        ref_model: π_ref; a copy of a model that is given as one, if there is no adapter.
        args: a `trl.DPOConfig`.
        *others: the other arguments of `trl.DPOTrainer`, in its order.
        objective: a name, or what `didsim.objective` returns. It replaces `args.loss_type` and `args.beta`.
        **named: the other arguments of `trl.DPOTrainer`, by name.

    Raises:
        ValueError: if the objective needs what a batch cannot offer, or a field of `args` that only TRL's losses read
            is not at its default.

    Source: DPO and its kin as in `didsim.OBJECTIVES`.
    """

    # TRL and transformers declare these more widely than they are while training
    args: Any
    accelerator: Any
    model: Any
    ref_model: Any
    _tokenizer: Any

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: DPOConfig | None = None,
        *others: Any,
        objective: str | BoundObjective,
        **named: Any,
    ) -> None:
        self.objective = _bound(objective)
        if args is not None:
            _check_unread(args)
            if args.precompute_ref_log_probs and self.objective.needs & BESIDE_SUMS:
                hint = f"{self.objective.name} needs more than the sums that are precomputed."
                raise ValueError(message("precompute_ref_log_probs", "False", True, hint))
        is_loaded = (
            isinstance(model, nn.Module) and not isinstance(model, PeftModel) and named.get("peft_config") is None
        )
        if ref_model is None and is_loaded and not (args is not None and args.precompute_ref_log_probs):
            ref_model = copy.deepcopy(model).requires_grad_(False).eval()  # its weights as they are now, wherever from
        given: Any = model
        super().__init__(given, ref_model, args, *others, **named)
        if isinstance(self.data_collator, DataCollatorForPreference):
            self.data_collator = PairCollator(**vars(self.data_collator))
        if self.objective.needs & BESIDE_FORWARD:
            _check_head(self.objective.name, self._inner(self.model))
        rule = self.objective.objective.gradient_rule
        self._check_devices(rule is not None or bool(self.objective.needs & BESIDE_FORWARD))
        self._second = None if rule is None else SecondGradient(rule, self.model.parameters(), self.accelerator)
        self._add_companion()
        self._mean_weight = _mean_weight(self.train_dataset)
        self._last_kl = torch.zeros((), device=self.accelerator.device)
        if "mean_kl" in self.objective.needs and self.args.per_device_train_batch_size < 2:
            hint = f"{self.objective.name} estimates z from responses to other prompts of a batch."
            raise ValueError(message("per_device_train_batch_size", "at least 2", 1, hint))

    def _send_telemetry(self) -> None:
        """Send nothing: TRL's trainers tell their makers of each run."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "weight" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "weight"]

    def _check_devices(self, whole: bool) -> None:
        """Refuse sharded parameters and scaled gradients where whole and true ones are needed."""
        if whole and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            hint = "Take one process, or data-parallel ones (DDP)."
            raise ValueError(message(f"parameters under {self.objective.name}", "whole", "sharded ones", hint))
        if self.objective.objective.gradient_rule is not None and self.args.fp16:
            hint = "Gradients are scaled in float16: take bf16."
            raise ValueError(message(f"fp16 under {self.objective.name}", "False", True, hint))

    def _add_companion(self) -> None:
        inner: Any = self._inner(self.model)
        companion = companion_of(self.objective, inner.get_output_embeddings())
        if companion is None:
            return
        if isinstance(self.model, PeftModel):
            hint = f"What {self.objective.name} learns beside the policy would not be saved with the adapter."
            raise ValueError(message("model", "one without an adapter", "an adapter", hint))
        inner.add_module(NAME, companion.to(self.accelerator.device))

    @property
    def companion(self) -> nn.Module:
        """What is learned beside the policy: a prior, or masks."""
        return getattr(self._inner(self.model), NAME)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Make one micro-batch's pass; after the last one, apply a gradient rule to the gradients of all."""
        loss = super().training_step(*args, **kwargs)
        if self._second is not None and self.accelerator.sync_gradients:
            self._second.apply()
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective's mean loss over a batch, in nats; and the model's own output, if asked for."""
        policy = self.read(model, inputs)
        pairs = self._pairs(model, policy, inputs)
        loss = self.mean_loss(pairs)
        if self._second is not None and torch.is_grad_enabled():
            rejected = replace(pairs, chosen=pairs.rejected)  # of which the objective's loss is the likelihood too
            self._second.add(self._weighted(rejected) / self.current_gradient_accumulation_steps)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * policy.output.aux_loss
        self._note(pairs, policy, inputs)
        return (loss, logits(model, inputs)) if return_outputs else loss

    def read(self, model: nn.Module, inputs: Batch) -> Reading:
        """Return how the policy reads a batch."""
        return self._read(model, inputs, "vocabulary" in self.objective.needs, self.aux_loss_enabled)

    def pairs(self, inputs: Batch) -> Pairs:
        """Return what the objective sees of a batch."""
        return self._pairs(self.model, self.read(self.model, inputs), inputs)

    def _pairs(self, model: nn.Module, policy: Reading, inputs: Batch) -> Pairs:
        """Make all passes that the objective needs beside the policy's own."""
        needs, found = self.objective.needs, {}
        reference = self._reference(inputs)
        if needs & {"marginal", "prior"}:
            first = self._tokenizer.bos_token_id
            first = self._tokenizer.eos_token_id if first is None else first
            alone = without_prompts(inputs, first, self._tokenizer.pad_token_id)
            if "marginal" in needs:
                found["log_marginal"] = self._log_marginal(model, alone)
            if "prior" in needs:
                found["log_zeta"] = log_prior(self._reference(alone), alone, self.companion)
        if "mean_kl" in needs:
            found["mean_kl"] = self._mean_kl(model, inputs)
        if "masks" in needs:
            found["masks"] = token_masks(reference, inputs, self.companion)
        return pairs_of(policy, reference, inputs, needs, **found)

    def _log_marginal(self, model: nn.Module, alone: Batch) -> Tensor:
        """Return log π(y) of responses without their prompts, [2B]."""
        # where γ is stopped, so is all that it is made of
        stopped = self.objective.hyperparameters.get("stop_gradient") is True
        with torch.no_grad() if stopped else ExitStack():
            return self._read(model, alone).log_probs.sum(1)

    def _mean_kl(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Estimate KL(π ‖ π_ref) by responses to other prompts of the batch, as KTO does: a number.

        A single pair has no other prompt: the last estimate is kept, as at the end of an epoch.
        """
        if len(inputs["input_ids"]) > 2:
            other = mismatched(inputs, self._tokenizer.pad_token_id, self.args.max_length)
            with torch.no_grad():
                ratio = self._read(model, other).log_probs - self._reference(other).log_probs
                self._last_kl = self.accelerator.gather(ratio.sum(1)).mean().clamp(min=0.0)
        return self._last_kl

    def _reference(self, inputs: Batch) -> Reading:
        """Return how π_ref reads a batch: precomputed, by the model without its adapter, or by a model of its own."""
        if self.precompute_ref_logps:
            sums = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
            return Reading(sums.unsqueeze(1))
        with self._reference_model() as model, torch.no_grad():
            return self._read(model, inputs, bool(self.objective.needs & BESIDE_FORWARD))

    def _read(self, model: Any, inputs: Batch, with_hidden: bool = False, with_routers: bool = False) -> Reading:
        return read(model, self._inner(model), inputs, with_hidden, with_routers)

    @contextmanager
    def _reference_model(self) -> Iterator[Any]:
        with ExitStack() as stack:
            # checkpointing without gradients only warns
            stack.enter_context(disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs))
            if self.ref_model is None and isinstance(self.model, PeftModel):
                inner: Any = self.accelerator.unwrap_model(self.model)
                stack.enter_context(use_adapter(inner, "ref" if "ref" in inner.peft_config else None))
                yield self.model
            else:
                yield self.ref_model

    def _inner(self, model: Any) -> Any:
        """Return the transformer to which TRL added its fused head."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    def mean_loss(self, pairs: Pairs) -> Tensor:
        """Return the mean of weight × loss; weights count relative to their mean over the training data."""
        if "batch" not in self.objective.needs or self.accelerator.num_processes == 1:
            return self._weighted(pairs)
        loss, count = self._weighted(across_ranks(pairs, self.accelerator)), self.accelerator.num_processes
        # data-parallel training averages gradients, of which each process has its own pairs' share only
        return loss.detach() + count * (loss - loss.detach())

    def _weighted(self, pairs: Pairs) -> Tensor:
        return self._losses(pairs).mean()

    def _losses(self, pairs: Pairs) -> Tensor:
        """Return the loss of each pair, times its weight relative to their mean."""
        losses = self.objective(pairs)
        if pairs.weights is None:
            return losses
        return torch.where(pairs.weights > 0, pairs.weights * losses, 0.0) / self._mean_weight

    def _note(self, pairs: Pairs, policy: Reading, inputs: Batch) -> None:
        """Log what TRL logs, under its names, and what the theory asks for."""
        accelerator, mode = self.accelerator, "train" if self.model.training else "eval"
        found = measures(self.objective, pairs, accelerator.gather)
        found |= of_tokens(policy, inputs, accelerator.gather_for_metrics)
        if self.aux_loss_enabled:
            found["aux_loss"] = accelerator.gather_for_metrics(policy.output.aux_loss.detach()).mean().item()
        for name, value in found.items():
            self._metrics[mode][name].append(value)
        if mode == "train":
            seen = accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum()
            self._total_train_tokens += int(seen.item() // self._tp_size)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def _bound(chosen: str | BoundObjective) -> BoundObjective:
    loss = objective(chosen) if isinstance(chosen, str) else chosen
    if not isinstance(loss, BoundObjective):
        raise TypeError(message("objective", "a name or an objective(…)", type(chosen).__name__))
    if missing := loss.needs - SERVED:
        wanted = "; ".join(NEEDS[name] for name in sorted(missing))
        hint = f"It needs {wanted}, which this trainer does not have yet; didsim.train does."
        raise ValueError(message("objective", "one that a batch is enough for", loss.name, hint))
    return loss


def _check_unread(args: DPOConfig) -> None:
    """Refuse what only TRL's own losses would read."""
    defaults = {field.name: field for field in fields(DPOConfig)}
    for name in UNREAD:
        field, value = defaults[name], getattr(args, name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default and value not in ([default], None):
            hint = "The objective does not read it: give objective(…) its hyperparameters."
            raise ValueError(message(f"args.{name}", f"left at {default!r}", value, hint))


def _mean_weight(data: Any) -> float:
    """Return the mean weight of the pairs of a dataset; 1 where it is not known, or there are none."""
    if not isinstance(data, Dataset) or "weight" not in data.column_names or len(data) == 0:
        return 1.0
    mean = sum(data["weight"]) / len(data)
    return mean if 0.0 < mean < math.inf else 1.0


def _check_head(name: str, inner: Any) -> None:
    """Refuse models whose logits are more than a linear function of last hidden states."""
    config = inner.config.get_text_config()
    for field in NOT_LINEAR:
        value = getattr(config, field, None)
        if value not in (None, 1.0):
            hint = f"{name} needs whole next-token distributions, which are computed from hidden states."
            raise ValueError(message(f"{field} of the model", "absent", value, hint))
