"""Models and tokenizers from local folders, or, only when asked, from the hub; no code that they bring is run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from didsim._checks import check_choice
from didsim.errors import BadDataError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Endings of weights that are pickled: to read such a file may run code."""


def load_model(source: str | Path, *, hub: bool = False, dtype: str = "float32") -> Any:
    """Read a causal language model, in evaluation mode: without dropout.

    Args:
        source: a folder with a model, or with an adapter and the name of its base; with `hub`, a name there.
        hub: look on the Hugging Face hub; otherwise nothing goes to the network.
        dtype: "float32" or "bfloat16".

    Raises:
        BadDataError: if there is no such model, its weights are not all there, not finite, or not safetensors, or it
            wants to run code of its own.
    """
    kind = DTYPES[check_choice("dtype", dtype, tuple(DTYPES))]
    _check_folder(source, hub)
    _check_weights(Path(source), hub)
    with _reading("model", source):
        found: Any = AutoModelForCausalLM.from_pretrained(
            str(source),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=not hub,
            dtype=kind,
            output_loading_info=True,
        )
    model, info = found
    if info["missing_keys"]:
        raise BadDataError(f"The model in {source} lacks weights: {', '.join(sorted(info['missing_keys'])[:3])}.")
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise BadDataError(f"The weight {name} of {source} holds numbers that are not finite.")
    return model.eval()


def to_accelerator(model: Any) -> Any:
    """Move a model to the accelerator, if there is one."""
    return model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")


def load_tokenizer(source: str | Path, *, hub: bool = False) -> Any:
    """Read the tokenizer of a model; one without a token for padding pads with its end.

    Raises:
        BadDataError: if there is none, it wants to run code of its own, or it has no end of sequence.
    """
    _check_folder(source, hub)
    with _reading("tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=not hub, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise BadDataError(f"The tokenizer of {source} has no end of sequence, by which responses end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_folder(source: str | Path, hub: bool) -> None:
    """Refuse names of the hub, which transformers would ask for even when it is told to stay with local files."""
    if hub or Path(source).is_dir():
        return
    hint = "Give the folder of a model, or look on the hub with --hub (in Python, hub=True)."
    raise BadDataError(f"There is no folder {source}. {hint}")


def _check_weights(folder: Path, hub: bool) -> None:
    """Say it plainly where weights are pickled; and do not follow an adapter to the network."""
    if not folder.is_dir():
        return
    names = [path.name for path in folder.iterdir()]
    pickled = sorted(name for name in names if Path(name).suffix in PICKLED and name != "training_args.bin")
    if pickled and not any(name.endswith(".safetensors") for name in names):
        hint = "Reading it may run code. Convert the model to safetensors (save_pretrained does) where you trust it."
        raise BadDataError(f"The weights in {folder} are pickled ({pickled[0]}). {hint}")
    if "adapter_config.json" in names and "config.json" not in names:
        base = _base_of(folder / "adapter_config.json")
        _check_folder(base, hub)
        _check_weights(Path(base), hub)


def _base_of(path: Path) -> str:
    """Return the model that an adapter is for."""
    try:
        return str(json.loads(path.read_text("utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadDataError(f"{path} does not say which model the adapter is for.") from error


@contextmanager
def _reading(what: str, source: str | Path) -> Iterator[None]:
    """Say in one line what is wrong with files that transformers could not read."""
    try:
        yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise BadDataError(f"The {what} in {source} needs code that comes with it, and that is not run.") from error
        first = str(error).strip().partition("\n")[0]
        raise BadDataError(f"The {what} in {source} cannot be read: {first}") from error
