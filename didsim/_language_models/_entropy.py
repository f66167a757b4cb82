"""The command `didsim llm entropy`: how many different things a model says, and what it learnt."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from didsim._language_models._options import HUB, drawing_options
from didsim._terminal import Number, Whole, command_with_examples, emit, flag, table, usage_errors


@command_with_examples(
    "didsim llm entropy --model model --samples 100",
    "didsim llm entropy --model model --prompts prompts.jsonl --json",
    "didsim llm entropy --model model --reference reference --samples 8",
)
@click.option("--model", required=True, help="The model π: a folder.")
@click.option("--reference", default=None, help="π_ref, a folder: estimate the entropy of the DID from it to π too.")
@click.option("--prompts", default=None, help="Prompts, or preference data, as JSON lines [one without a word].")
@click.option("--samples", type=Whole(2, 10**6), default=4, show_default=True, help="Responses for each prompt.")
@click.option("--probe-prompts", default=None, help="Prompts on which the probe is trained [those of --prompts].")
@click.option("--probe-pairs", type=Whole(1, 10**6), default=16, show_default=True,
              help="Train the probe on so many pairs for each prompt.")  # fmt: skip
@click.option("--learning-rate", type=Number(), default=1e-6, show_default=True, help="Of the probe's RMSprop.")
@drawing_options
@HUB
def entropy(model: str, reference: str | None, prompts: str | None, probe_prompts: str | None, **options: Any) -> None:
    """Estimate the entropy of a model's responses, and that of the DID q ∝ π/π_ref, in nats.

    Responses are drawn at temperature 1 from all tokens. The entropy is exact, but for its standard error, for
    responses that are cut off after --max-new-tokens.

    With --reference, a probe that starts at π_ref is trained towards q on pairs y_w ~ π, y_l ~ π_ref; its entropy
    estimates that of q where it came near q. Its β′-accuracy, near 1 then, is the share of fits of log π̃ on
    log π/π_ref to four of its samples whose slope is not negative (DID paper, Appendix K).
    """
    if reference is None and probe_prompts is not None:
        raise click.UsageError("--probe-prompts are those of the probe, which needs --reference.")
    if reference is not None and options["samples"] < 4:
        raise click.UsageError("--samples must be at least 4 with --reference: β′ is fitted to four responses.")
    with usage_errors():
        from didsim.llm import without_chatter
    with without_chatter(heard=flag("verbose")):
        given = {"model": model, "reference": reference, "prompts": prompts, "probe_prompts": probe_prompts}
        found = _of_the_did(given, options) if reference is not None else _of_one(given, options)
    _tell(given, options, found)


def _of_one(given: dict[str, Any], options: dict[str, Any]) -> Any:
    from didsim.llm import load_tokenizer, response_entropy, sample_responses

    prompts = _prompts(given["prompts"], options)
    tokenizer, model = load_tokenizer(given["model"], hub=options["hub"]), load(given["model"], options)
    settings = {name: options[name] for name in ("max_new_tokens", "seed", "batch_size")}
    count = options["samples"]
    with usage_errors(), progress(count * len(prompts)) as told:
        return response_entropy(sample_responses(model, tokenizer, prompts, count, told=told, **settings))


def _of_the_did(given: dict[str, Any], options: dict[str, Any]) -> Any:
    from didsim.llm import did_entropy, load_tokenizer

    prompts = _prompts(given["prompts"], options)
    others = prompts if given["probe_prompts"] is None else _prompts(given["probe_prompts"], options)
    tokenizer = load_tokenizer(given["model"], hub=options["hub"])
    model, reference = (load(given[name], options) for name in ("model", "reference"))
    names = ("samples", "learning_rate", "max_new_tokens", "batch_size", "seed")
    settings = {"probe_prompts": others, "pairs": options["probe_pairs"], **{name: options[name] for name in names}}
    count = 3 * options["samples"] * len(prompts) + 3 * options["probe_pairs"] * len(others)
    with usage_errors(), progress(count) as told:
        return did_entropy(model, reference, tokenizer, prompts, told=told, **settings)


def _prompts(source: str | None, options: dict[str, Any]) -> list[Any]:
    from didsim.llm import load_prompts

    return [""] if source is None else load_prompts(source, hub=options["hub"])


def load(source: str, options: dict[str, Any]) -> Any:
    """Read a model, onto the accelerator if there is one."""
    from didsim.llm import load_model, to_accelerator

    return to_accelerator(load_model(source, hub=options["hub"], dtype=options["dtype"]))


@contextmanager
def progress(total: int) -> Iterator[Any]:
    """Say on a terminal how many responses are done; yields what is told of more."""
    from tqdm import tqdm

    hidden = True if flag("quiet") else None  # None: shown on a terminal only
    with tqdm(total=total, unit="response", file=sys.stderr, disable=hidden) as bar:
        yield bar.update


HEADERS = ("of", "", "H [nats]", "± s.e.", "nats/token", "responses", "cut off")

KINDS = {"model": "π", "reference": "π_ref", "probe": "q"}


def _tell(given: dict[str, Any], options: dict[str, Any], found: Any) -> None:
    """Print the estimates, and what they mean."""
    both = given["reference"] is not None
    estimates = {kind: getattr(found, kind) for kind in KINDS} if both else {"model": found}
    document = {"given": given, "settings": options, "entropy": {k: asdict(v) for k, v in estimates.items()}}
    rows = [
        [KINDS[kind], given.get(kind) or "(by a probe)", e.entropy, e.error, e.per_token, e.responses, e.cut]
        for kind, e in estimates.items()
    ]
    lines = [table(HEADERS, rows)]
    if both:
        accuracy = None if math.isnan(found.beta_accuracy) else found.beta_accuracy
        document["did"] = {"difference": found.difference, "error": found.error, "beta_accuracy": accuracy}
        document["did"] |= {"fits": found.fits, "sentence": found.sentence}
        share = "no fit determines it" if accuracy is None else f"{accuracy:.3g}, of {found.fits} fits"
        lines += ["", f"β′-accuracy of the probe: {share}.", found.sentence]
    if any(e.cut for e in estimates.values()):
        lines.append(f"Responses were cut off after {options['max_new_tokens']} tokens; the entropies are of such.")
    emit(document, "\n".join(lines))
