"""The command `didsim llm pairs`: preference data by which DPO ends at a given policy."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import click

from didsim._language_models._entropy import load, progress
from didsim._language_models._options import HUB, drawing_options
from didsim._terminal import SCHEMA_VERSION, Number, Whole, command_with_examples, emit, flag, say, usage_errors
from didsim.errors import ResourceError

LIBRARIES = ("torch", "transformers")

COUNTS = ("empty", "cut", "equal", "repeated", "changed")


@command_with_examples(
    "didsim llm pairs --reference reference --target target --prompts prompts.jsonl --out drawn.jsonl",
    "didsim llm pairs --reference reference --target target --prompts prompts.jsonl --beta 0.1 --out mild.jsonl",
    "didsim llm pairs --reference reference --target target --prompts prompts.jsonl --samples 4 --normalise prompt "
    "--out four.jsonl",
    name="pairs",
)
@click.option("--reference", required=True, help="π_ref, a folder: chosen responses are drawn from it.")
@click.option("--target", required=True, help="π*, a folder: the policy at which DPO is to end.")
@click.option("--prompts", required=True, help="Prompts, or preference data, as JSON lines.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.jsonl",
              help="Where the pairs are written; a manifest, FILE.json, stands beside them.")  # fmt: skip
@click.option("--beta", type=Number(), default=1.0, show_default=True, help="β of the DPO that is to end at π*.")
@click.option("--samples", type=Whole(1, 10**6), default=1, show_default=True, help="Pairs for each prompt.")
@click.option("--normalise", type=click.Choice(["overall", "prompt"]), default="overall", show_default=True,
              help="Divide weights by the mean of all, or by that of their prompt.")  # fmt: skip
@drawing_options
@HUB
def pairs(reference: str, target: str, prompts: str, out: Path, beta: float, samples: int, normalise: str,
          **options: Any) -> None:  # fmt: skip
    """Draw preference data whose optimum under DPO is a given policy π*, for didsim llm train --data.

    Chosen responses come from π_ref. The ideal rejected ones, π_ref (π_ref/π*)^β / Z(x) as a whole, are drawn by the
    same formula token by token, and weighed: the column weight is w = ideal/proposal up to a constant, log_weight its
    logarithm before that. Normalised overall, weights are exact for any number of samples, and prompts count by Z(x);
    normalised by prompt, all prompts count alike, with a bias that many samples remove.
    """
    _check_out(out)
    if normalise == "prompt" and samples == 1:
        raise click.UsageError("--normalise prompt needs --samples of at least 2: one weight alone would always be 1.")
    given = {"reference": reference, "target": target, "prompts": prompts}
    chosen = {"beta": beta, "samples": samples, "normalise": normalise, **options}
    with usage_errors():
        from didsim.llm import without_chatter
    with without_chatter(heard=flag("verbose")):
        data = _draw(given, chosen)
    document = {"given": given, "settings": chosen, **_found(data)}
    _write(out, data.rows, document)
    emit({**document, "out": str(out)}, _text(data, chosen))


def _check_out(out: Path) -> None:
    """Refuse a file that could not be written, or that others wrote, before hours are spent."""
    if out.suffix != ".jsonl":
        raise click.UsageError(f"--out takes a FILE.jsonl; got {str(out)!r}.")
    if out.is_dir() or (out.exists() and not out.with_suffix(".json").is_file()):
        raise ResourceError(f"{out} is there, without a manifest of this command beside it. Use another --out.")
    if not out.absolute().parent.is_dir():
        raise ResourceError(f"There is no folder {out.absolute().parent} to write {out.name} into.")


def _draw(given: dict[str, str], chosen: dict[str, Any]) -> Any:
    from didsim.llm import draw_pairs, load_prompts, load_tokenizer, pair_rows

    asked = load_prompts(given["prompts"], hub=chosen["hub"])
    tokenizer = load_tokenizer(given["reference"], hub=chosen["hub"])
    reference, target = (load(given[name], chosen) for name in ("reference", "target"))
    names = ("beta", "samples", "max_new_tokens", "batch_size", "seed")
    with usage_errors(), progress(2 * chosen["samples"] * len(asked)) as told:
        settings = {name: chosen[name] for name in names}
        drawn = draw_pairs(reference, target, tokenizer, asked, told=told, **settings)
        return pair_rows(drawn, asked, tokenizer, chosen["normalise"])


def _found(data: Any) -> dict[str, Any]:
    """Return what is to be known of the pairs, as parts of a document."""
    names = ("effective", "effective_per_prompt", *COUNTS)
    return {"pairs": len(data.rows), **{name: getattr(data, name) for name in names}}


def _write(out: Path, rows: list[dict[str, Any]], document: dict[str, Any]) -> None:
    """Write the pairs, then their manifest; each appears whole."""
    from didsim.experiment import write_atomic

    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    manifest = {"schema_version": SCHEMA_VERSION, **document, "sha256": hashlib.sha256(text).hexdigest()}
    write_atomic(out, text)
    beside = json.dumps({**manifest, "versions": versions}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(out.with_suffix(".json"), beside.encode())
    say(f"Wrote {out} and {out.with_suffix('.json')}.")


def _text(data: Any, chosen: dict[str, Any]) -> str:
    """Say what was drawn, and what is wrong with it."""
    lines = [
        f"{len(data.rows)} pairs; train with DPO at beta = {chosen['beta']:g}.",
        f"Effective number of rejected responses, by their weights: {data.effective:.4g} of {len(data.rows)}.",
    ]
    if data.effective_per_prompt is not None:
        lines.append(f"Of the responses to one prompt, {data.effective_per_prompt:.0%} count.")
    if data.effective < LITTLE * len(data.rows):
        lines.append("That is little: a smaller --beta, or shorter responses, have more equal weights.")
    remarks = {
        "cut": f"responses were cut off after {chosen['max_new_tokens']} tokens; training gives them an end.",
        "changed": "responses tokenise to other tokens than were drawn; training reads those.",
        "empty": "pairs were left out, since a response is empty.",
        "equal": "pairs have the same response twice.",
        "repeated": "pairs came before.",
    }
    lines += [f"{getattr(data, name)} {remark}" for name, remark in remarks.items() if getattr(data, name)]
    return "\n".join(lines)


LITTLE = 0.1
"""A share of effective responses that is told to be little."""
