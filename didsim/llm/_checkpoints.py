"""The policies that a training left behind: its checkpoints in order of their steps, and the final model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_FILES = ("config.json", "adapter_config.json")
"""One of these lies in a folder with a model."""


@dataclass(frozen=True)
class Stage:
    """A policy, at some point of its training if that is known.

    Attributes:
        source: its folder, or its name on the hub.
        step: optimiser steps, or None.
        epoch: passes through the data, or None.
    """

    source: str
    step: int | None = None
    epoch: float | None = None


def stages(source: str) -> list[Stage]:
    """Return the checkpoints of a training's folder, and its final model; of another folder, the model alone."""
    folder = Path(source)
    found = [_stage(path) for path in checkpoints(folder)]
    if not found or any((folder / name).is_file() for name in MODEL_FILES):
        found.append(_stage(folder) if folder.is_dir() else Stage(source))
    return found


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training's folder, in order of their steps."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))


def _stage(folder: Path) -> Stage:
    """Read from a trainer's state how far the training was; a model without one is not of a training."""
    try:
        state: Any = json.loads((folder / "trainer_state.json").read_text("utf-8"))
        return Stage(str(folder), int(state["global_step"]), float(state["epoch"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Stage(str(folder))
