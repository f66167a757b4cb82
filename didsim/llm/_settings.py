"""The settings of a training run: those that we have words for, and all others that TRL's DPOConfig knows."""

import enum
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from trl.trainer.dpo_config import DPOConfig

from didsim._checks import check_choice, did_you_mean, message
from didsim.llm._trainer import UNREAD
from didsim.objectives import BoundObjective

OWNED = {
    "output_dir": "out",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "max_length": "max_length",
    "bf16": "dtype",
    "fp16": "dtype",
    "seed": "seed",
    "resume_from_checkpoint": "resume",
}
"""Fields of DPOConfig that have another name here."""

UNUSED = {
    "model_init_kwargs": "the model is read before, from safetensors",
    "trust_remote_code": "code that comes with a model is not run",
    "padding_free": "TRL does not offer it at present",
    "label_smoothing_factor": "the objective is the loss",
    "neftune_noise_alpha": "the policy would not be its own reference at the start",
    "disable_tqdm": "-q and -v say how much is told",
    "hub_token": "it would stand in the manifest; log in with hf auth login",
    "local_rank": "accelerate launch sets it",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "training is all that is done"),
}
"""Fields of DPOConfig that would be ignored, or are not ours to change, and why."""

SENT = ("push_to_hub", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
"""Fields of DPOConfig by which data leave the machine."""

STAYING = frozenset({"none", "tensorboard"})
"""What training may be reported to without leaving the machine."""

PLAIN = {
    "logging_first_step": True,  # at which the policy is still the one that was given
    "logging_nan_inf_filter": False,  # which would replace what is no number by a mean
    "report_to": "none",
}
"""Where our defaults are not TRL's."""

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Run:
    """All that determines a training run.

    Attributes:
        model: a folder, or a name on the hub.
        data: a file, a folder, or a name on the hub, as for `load_pairs`.
        objective: the loss.
        reference: π_ref, as the model; None for the model as it is before training.
        steps: optimiser steps, or None to count epochs.
        epochs: passes through the data.
        learning_rate: at its largest.
        batch_size: pairs on each device.
        accumulate: so many batches make a step.
        max_length: in tokens, of a prompt with its response; longer ones lose their end.
        lora: the rank of an adapter on all linear layers, which is trained in place of the model; 0 for none.
        dtype: "float32", or "bfloat16", in which float32 weights are then computed with.
        seed: of the order of the data, and of adapters.
        hub: look on the Hugging Face hub.
        on_bad_row: as for `load_pairs`.
        training: other fields of `trl.DPOConfig`.
    """

    model: str
    data: str
    objective: BoundObjective
    reference: str | None = None
    steps: int | None = None
    epochs: float = 1.0
    learning_rate: float = 1e-6
    batch_size: int = 8
    accumulate: int = 1
    max_length: int = 1024
    lora: int = 0
    dtype: str = "float32"
    seed: int = 42
    hub: bool = False
    on_bad_row: str = "error"
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, PRECISIONS)
        check_training(self.training, self.hub)

    def arguments(self, out: str | Path) -> DPOConfig:
        """Return TRL's settings.

        Raises:
            ValueError: if they contradict each other, or this machine cannot do what they want.
        """
        bfloat16 = self.dtype == "bfloat16"
        if bfloat16 and not torch.cuda.is_available() and not self.training.get("use_cpu"):
            hint = "Take float32, or set use_cpu = true in [training], which is slow."
            raise ValueError(message("dtype", "float32 on a machine without a GPU", self.dtype, hint))
        settings: dict[str, Any] = {
            **PLAIN,
            **self.training,
            "output_dir": str(out),
            "max_steps": -1 if self.steps is None else self.steps,
            "num_train_epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accumulate,
            "max_length": self.max_length,
            "bf16": bfloat16,
            "seed": self.seed,
            "disable_tqdm": True,
        }
        if not torch.cuda.is_available():
            settings = {"use_cpu": True, "dataloader_pin_memory": False, **settings}
            if "WORLD_SIZE" in os.environ:  # processes do not find each other unless they are told so
                settings.setdefault("ddp_backend", "gloo")
        return DPOConfig(**settings)


def check_training(table: Mapping[str, Any], hub: bool = False) -> None:
    """Refuse what is no field of DPOConfig, has another name here, would be ignored, or sends data out.

    Raises:
        ValueError: if a field is one of these, or its value is none that it takes.
        TypeError: if its value is of another type.
    """
    hints = typing.get_type_hints(DPOConfig)
    for name, value in table.items():
        where = f"training.{name}"
        if name in OWNED:
            raise ValueError(f"{where} is called {OWNED[name]} here: set {OWNED[name]}, outside the table.")
        if name in UNREAD:
            hint = "Its hyperparameters are set by -S NAME=VALUE, or in the table [set]."
            raise ValueError(f"{where} is read by TRL's own losses only, not by the objective. {hint}")
        if name in UNUSED:
            raise ValueError(f"{where} cannot be set: {UNUSED[name]}.")
        if name not in hints:
            suggestion = did_you_mean(name, [known for known in hints if known not in UNREAD])
            raise ValueError(message(where, "a field of trl.DPOConfig", name, suggestion))
        _check_value(where, value, hints[name])
        if not hub and _leaves(name, value):
            raise ValueError(f"{where} = {value!r} sends data out of this machine; that takes --hub.")


def _leaves(name: str, value: Any) -> bool:
    if name == "report_to":
        return not STAYING.issuperset([value] if isinstance(value, str) else value)
    return name in SENT and bool(value)


def _check_value(where: str, value: Any, hint: Any) -> None:
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    names = [member.value for kind in kinds if _is_names(kind) for member in kind]
    if names and isinstance(value, str):
        check_choice(where, value, names)
    elif not any(_accepts(kind, value) for kind in kinds):
        accepted = " or ".join(_called(kind) for kind in kinds if kind is not types.NoneType)
        raise TypeError(message(where, accepted, value))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_names(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _accepts(kind: Any, value: Any) -> bool:
    """Return whether a value, as TOML gives it, is of a kind; what lists and tables hold is left to TRL."""
    plain = typing.get_origin(kind) or kind
    if plain is typing.Literal:
        return value in typing.get_args(kind)
    if isinstance(value, bool) or plain is bool:
        return isinstance(value, bool) and plain is bool
    return isinstance(value, (int, float) if plain is float else plain)


def _called(kind: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table"}
    return words.get(typing.get_origin(kind) or kind, str(getattr(kind, "__name__", kind)))
