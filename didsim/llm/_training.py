"""A training run from folder to folder: what is read, made, continued and written."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback

from didsim._checks import message
from didsim.errors import BadDataError, ResourceError
from didsim.llm._checkpoints import checkpoints
from didsim.llm._data import PairData
from didsim.llm._models import load_model, load_tokenizer
from didsim.llm._settings import Run
from didsim.llm._trainer import PreferenceTrainer

STATE = "trainer_state.json"

SAVING = ".didsim-saving"
"""The folder in which a model is written before it is moved to its place."""


class _Telling(TrainerCallback):
    """Say each step that is logged."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            margin = f", margin {logs['rewards/margins']:.4g}" if "rewards/margins" in logs else ""
            self.tell(f"Step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4g}{margin}")


def make_trainer(run: Run, data: PairData, out: Path, tell: Callable[[str], None] | None = None) -> PreferenceTrainer:
    """Read the models of a run and make its trainer.

    Args:
        run: the settings.
        data: the pairs.
        out: the folder for checkpoints.
        tell: what is called with a sentence on each step that is logged.

    Raises:
        BadDataError: if a model cannot be read or trained.
        ValueError: if settings contradict each other, the objective, or the data.
    """
    arguments = run.arguments(out)
    tokenizer = load_tokenizer(run.model, hub=run.hub)
    model, reference = _policy(run, run.model, tokenizer), None
    if run.reference is not None:
        reference = _policy(run, run.reference, tokenizer).requires_grad_(False)
    adapter = None
    if run.lora:
        alpha = 2 * run.lora
        adapter = LoraConfig(r=run.lora, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = PreferenceTrainer(
        model,
        reference,
        arguments,
        objective=run.objective,
        train_dataset=data.pairs,
        processing_class=tokenizer,
        peft_config=adapter,
    )
    if len(trainer.train_dataset) == 0:
        hint = "Every prompt fills it alone."
        raise ValueError(message("max_length", "larger than the prompts", run.max_length, hint))
    trainer.remove_callback(PrinterCallback)
    if tell is not None:
        trainer.add_callback(_Telling(tell))
    return trainer


def _policy(run: Run, source: str, tokenizer: Any) -> Any:
    model = load_model(source, hub=run.hub)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise BadDataError(f"{source} is an adapter. Merge it into its model (merge_and_unload), and name that.")
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        hint = "Is it the tokenizer of another model?"
        raise BadDataError(f"The tokenizer of {run.model} has {len(tokenizer)} tokens, {source} knows {rows}. {hint}")
    return model


def last_checkpoint(out: Path) -> Path | None:
    """Return the last checkpoint that is whole: its state, which is written last, can be read."""
    for path in reversed(checkpoints(out)):
        try:
            json.loads((path / STATE).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        return path
    return None


def fit(trainer: PreferenceTrainer, checkpoint: Path | None = None) -> None:
    """Train, from a checkpoint if there is one.

    Raises:
        ResourceError: if the memory does not suffice.
        BadDataError: if the checkpoint cannot be read.
    """
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except torch.OutOfMemoryError as error:
        hint = "Take a smaller --batch-size with more to --accumulate, a smaller --max-length, or --lora."
        raise ResourceError(f"The memory of the device does not suffice. {hint}") from error
    except (pickle.UnpicklingError, EOFError) as error:
        raise BadDataError(f"{checkpoint} cannot be read. Remove it to continue from the one before.") from error


def save(trainer: PreferenceTrainer, out: Path) -> None:
    """Write model and tokenizer, and the log under TRL's name; each file appears when all are written.

    All processes must call it.
    """
    folder = out / SAVING
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(folder / STATE))
        (folder / "training_args.bin").unlink(missing_ok=True)  # pickled settings
        (out / "README.md").unlink(missing_ok=True)  # TRL's, which names its own loss
        for path in sorted(folder.iterdir()):
            os.replace(path, out / path.name)
        shutil.rmtree(folder)


def is_finite(trainer: PreferenceTrainer) -> bool:
    """Return whether all weights are finite, on all processes."""
    finite = all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())
    flag = torch.tensor([finite], device=trainer.accelerator.device)
    return bool(trainer.accelerator.gather(flag).all())


def steps_of(trainer: PreferenceTrainer) -> list[dict[str, Any]]:
    """Return what was logged at each step."""
    return _of_training(trainer.state.log_history)


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return what was logged at each step of a run that was written."""
    return _of_training(json.loads((out / STATE).read_text("utf-8"))["log_history"])


def _of_training(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "loss" in row]
