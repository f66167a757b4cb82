"""The command `didsim verify`: check theorems and claims, search for counterexamples, and report."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from didsim._terminal import Whole, command_with_examples, emit, flag, say, screen_width, table
from didsim.errors import NothingSelectedError

HEADS = ("name", "source", "verdict", "instances", "worst residual", "tolerance", "seconds")


@command_with_examples(
    "didsim verify did.thm-3.3 did.thm-3.4",
    "didsim verify 'alpha.lem-*' --draws 20",
    "didsim verify mi.eq-3 --json",
)
@click.argument("names", nargs=-1, metavar="[NAME|GLOB]...")
@click.option(
    "--draws", type=Whole(1, 10**7), default=None, help="Random instances per claim [200]; fewer of costly ones."
)
@click.option("--seed", type=Whole(0, 2**63 - 1), default=0, show_default=True, help="Seed of the draws.")
@click.option("--search", is_flag=True, help="Search for counterexamples too, by optimisation, and keep what is found.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("didsim-out"),
    show_default=True,
    help="Directory for what --search finds; a new one, or one that didsim made.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.html",
    help="Write all that is known and was found as one page for a browser.",
)
@click.option(
    "--replay",
    "replayed",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Evaluate a claim at the instance of a JSON file instead, such as a saved counterexample.",
)
def verify(
    names: tuple[str, ...],
    draws: int | None,
    seed: int,
    search: bool,
    out: Path,
    report: Path | None,
    replayed: Path | None,
) -> None:
    """Check theorems and claims of the papers numerically: all of them, unless names or globs are given.

    Each is checked at random instances, at its saved counterexample, and at a negative control that must fail. That
    it holds means that no counterexample was found. -v shows what each says and what there is to know.

    Ends with 1 if a verdict differs from the recorded one, or if a replayed instance contradicts it.
    """
    _check_combination(replayed is not None, search, report)
    if replayed is not None:
        _replay(replayed)
        return
    from didsim.claims import DRAWS

    chosen = _select(names)
    task = Task(chosen, DRAWS if draws is None else draws, seed, out / "counterexamples" if search else None)
    findings = run_all(task, out)
    if report is not None:
        _write_report(report, findings, task)
    _tell(findings, task)
    if not all(finding.result.agrees for finding in findings):
        click.get_current_context().exit(1)


@dataclass(frozen=True)
class Task:
    """What is to be checked.

    Attributes:
        names: of the claims.
        draws: random instances of an ordinary claim.
        seed: of the draws.
        kept: the directory for what a search finds, or None if there is none.
    """

    names: tuple[str, ...]
    draws: int
    seed: int
    kept: Path | None


@dataclass(frozen=True)
class Finding:
    """The result of a claim, the seconds it took, and where a search has kept a counterexample."""

    result: Any
    seconds: float
    path: Path | None


def _check_combination(replayed: bool, search: bool, report: Path | None) -> None:
    """Refuse options that would not be read, and a report that is no page."""
    ctx = click.get_current_context()
    given = {name for name in ctx.params if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    if not ctx.params["names"]:
        given.discard("names")
    if replayed and (unread := sorted(given - {"replayed"})):
        words = ["NAME" if name == "names" else f"--{name}" for name in unread]
        raise click.UsageError(f"--replay takes the claim from its file; it does not go with {', '.join(words)}.")
    if "out" in given and not search:
        raise click.UsageError("--out is the directory of what --search finds; it does nothing without.")
    if report is not None and report.suffix.lower() not in {".html", ".htm"}:
        raise click.UsageError(f"--report takes a FILE.html; got {str(report)!r}.")


def _select(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the claims that are meant; a glob that matches nothing selects nothing."""
    from didsim.claims import select

    for pattern in patterns:
        try:
            select([pattern])
        except ValueError as error:
            if set("*?[") & set(pattern):
                raise NothingSelectedError(str(error)) from error
            raise click.UsageError(str(error)) from error
    return tuple(select(patterns))


def run_all(task: Task, out: Path) -> list[Finding]:
    """Check all claims, and say on a terminal how far it is; many are checked in several processes."""
    from tqdm import tqdm

    from didsim.experiment import in_processes, output_directory

    hidden = True if flag("quiet") or len(task.names) == 1 else None  # None: shown on a terminal only
    jobs = min(os.cpu_count() or 1, len(task.names) // MANY)
    calls = [(name, task.draws, task.seed, task.kept is not None) for name in task.names]
    outcomes: dict[int, Any] = {}
    with (
        nullcontext() if task.kept is None else output_directory(out),
        tqdm(total=len(task.names), unit="claim", file=sys.stderr, disable=hidden) as bar,
    ):
        for number, outcome in in_processes(_run, calls, jobs) if jobs > 1 else _one_by_one(calls):
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes[number] = outcome
            _keep(task, task.names[number], outcome[2])
            bar.set_postfix_str(task.names[number])
            bar.update()
    return [_finding(task, name, *outcomes[number]) for number, name in enumerate(task.names)]


MANY = 20
"""So many claims are worth a process of their own, which first has to load what it needs."""

Outcome = tuple[dict[str, Any], float, dict[str, Any] | None]
"""What was found of a claim, by the fields of `Result`, the seconds it took, and what the search found."""


def _one_by_one(calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Outcome]]:
    for number, arguments in enumerate(calls):
        yield number, _run(*arguments)


def _run(name: str, draws: int, seed: int, searched: bool) -> Outcome:
    """Check a claim with one thread, after a search for a counterexample if one is asked for."""
    from didsim.claims import CLAIMS, check_claim, search
    from didsim.torch_bridge import threads

    claim, started = CLAIMS[name], time.monotonic()
    with threads(1):
        found = search(claim, draws, seed) if searched else None
        result = check_claim(claim, draws, seed, more=[] if found is None else [found])
    values = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "claim"}
    return values, time.monotonic() - started, found


def _finding(task: Task, name: str, values: dict[str, Any], seconds: float, found: dict[str, Any] | None) -> Finding:
    from didsim.claims import CLAIMS, Result

    return Finding(Result(claim=CLAIMS[name], **values), seconds, None if found is None else _path(task, name))


def _path(task: Task, name: str) -> Path:
    """Return where a counterexample of a claim is kept."""
    assert task.kept is not None  # a search was asked for
    return task.kept / f"{name}.json"


def _keep(task: Task, name: str, instance: dict[str, Any] | None) -> None:
    """Write a counterexample that was found so that --replay can read it."""
    from didsim.experiment import write_atomic

    if instance is not None:
        content = {"claim": name, "instance": instance}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(_path(task, name), text.encode())


def _write_report(path: Path, findings: Sequence[Finding], task: Task) -> None:
    from didsim._report import page
    from didsim.experiment import write_atomic

    write_atomic(path, page([finding.result for finding in findings], task.draws, task.seed).encode())


def _tell(findings: Sequence[Finding], task: Task) -> None:
    """Print what was found, and say what was written."""
    from didsim._findings import without_infinities

    document = {
        "draws": task.draws,
        "seed": task.seed,
        "search": task.kept is not None,
        "claims": [_document(finding.result) for finding in findings],
    }
    emit(without_infinities(document), _text(findings))
    kept = [finding.path for finding in findings if finding.path is not None]
    if kept:
        say(f"Kept {len(kept)} {'counterexample' if len(kept) == 1 else 'counterexamples'}; see one again with")
        say("\n".join(f"  didsim verify --replay {path}" for path in kept))
    elif task.kept is not None:
        say("The search found no counterexample.")


def _document(result: Any) -> dict[str, Any]:
    """Return what was found of a claim, as a part of a document; what is infinite becomes null there."""
    return {
        "name": result.name,
        "source": result.claim.source,
        "statement": result.claim.statement,
        "verdict": result.verdict,
        "recorded": result.claim.verdict,
        "residual": result.residual,
        "tolerance": result.claim.tolerance,
        "instances": result.instances,
        "control": result.control,
        "counterexample": result.counterexample,
        "violation": result.violation,
        "sentence": result.sentence,
        "note": result.note,
    }


# --- text -------------------------------------------------------------------------------------------------


def _text(findings: Sequence[Finding]) -> str:
    """Return a table, a sentence on each claim that does not simply hold, and a count of the verdicts."""
    rows = [_row(finding) for finding in findings]
    results = [finding.result for finding in findings]
    remarks = [remark for result in results if (remark := _remark(result))]
    blocks = [table(HEADS, rows, screen_width()), "\n".join(remarks)]
    if flag("verbose"):
        blocks += map(_details, results)
    return "\n\n".join(block for block in [*blocks, _summary(results)] if block)


def _row(finding: Finding) -> list[object]:
    result = finding.result
    verdict = result.verdict if result.agrees else f"{result.verdict}, not {result.claim.verdict}"
    numbers = [result.instances, float(result.residual), float(result.claim.tolerance), round(finding.seconds, 2)]
    return [result.name, result.claim.source, verdict, *numbers]


def _remark(result: Any) -> str:
    """Say what is to be said of a claim that does not simply hold, or is not as recorded."""
    recorded = "" if result.agrees else f" (recorded: {result.claim.verdict})"
    if result.verdict == "holds" and not recorded:
        return ""
    corrected = f"; corrected in {result.claim.corrected}" if result.claim.corrected else ""
    return f"{result.name}: {result.sentence}{corrected}{recorded}"


def _details(result: Any) -> str:
    """Return statement, assumptions, note and counterexample of a claim."""
    claim = result.claim
    lines = [f"{claim.name}: {claim.statement}", f"  {claim.note}"]
    lines += [f"  supposes         {words}" for words in claim.assumptions]
    lines.append(f"  tolerance        {claim.tolerance:.4g}: {claim.reason}")
    lines.append(f"  control          {result.control:.4g}, without: {claim.control.breaks}")
    if result.counterexample is not None:
        lines.append(f"  counterexample   {json.dumps(result.counterexample, ensure_ascii=False)}")
    return "\n".join(lines)


def _summary(results: Sequence[Any]) -> str:
    """Count the verdicts."""
    from didsim.claims import VERDICTS

    counts = Counter(result.verdict for result in results)
    differ = sum(not result.agrees for result in results)
    agreement = "all as recorded" if differ == 0 else f"{differ} not as recorded"
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    number = f"{len(results)} {'claim' if len(results) == 1 else 'claims'}"
    return f"{number}: {told}; {agreement}. Holds means that no counterexample was found."


def _replay(path: Path) -> None:
    """Print what an instance does to its claim, and end with 1 if it contradicts the recorded verdict."""
    from didsim._findings import without_infinities
    from didsim._replaying import replay

    document, text, contradicts = replay(path)
    emit(without_infinities(document), text)
    if contradicts:
        say(f"This contradicts the recorded verdict, {document['recorded']}.")
        click.get_current_context().exit(1)
