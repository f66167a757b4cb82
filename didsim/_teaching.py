"""The commands `didsim teach …`: thin, and quick to load; the work is done in `didsim.lessons`."""

import os
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from didsim._terminal import Number, Whole, command_with_examples, common_options, emit, say, table, usage_errors

if TYPE_CHECKING:
    from didsim.lessons import Lesson
    from didsim.lessons.labs import Lab


@click.group(name="teach", short_help="The course: pages for the lecturer, labs and exercises for students.")
@common_options
def teach() -> None:
    """Teach preference optimisation: pages with a slider each, labs, and exercises that check themselves.

    Pages and labs need the extra: pip install 'didsim[teach]'.
    """


@command_with_examples("didsim teach list", "didsim teach list --json", name="list")
def list_() -> None:
    """Name the lessons of the course, the labs, and the exercises."""
    from didsim.lessons import LESSONS
    from didsim.lessons.grading import EXERCISES
    from didsim.lessons.labs import LABS

    rows = [[str(lesson.number), name, str(lesson.minutes), lesson.title] for name, lesson in LESSONS.items()]
    documents = [{"number": x.number, "name": x.slug, "minutes": x.minutes, "title": x.title} for x in LESSONS.values()]
    lessons = table(["lesson", "name", "minutes", "title"], rows)
    labs = table(["lab", "lesson", "title"], [[x.name, str(x.lesson), x.title] for x in LABS.values()])
    notebooks = [{"name": x.name, "lesson": x.lesson, "title": x.title} for x in LABS.values()]
    exercises = [{"name": x.name, "lesson": x.lesson, "title": x.title} for x in EXERCISES.values()]
    tasks = table(["exercise", "lesson", "title"], [[x.name, str(x.lesson), x.title] for x in EXERCISES.values()])
    emit({"lessons": documents, "labs": notebooks, "exercises": exercises}, f"{lessons}\n\n{labs}\n\n{tasks}")


@command_with_examples(
    "didsim teach export softmax", "didsim teach export 4 -o did.html", "didsim teach export --all -o site"
)
@click.argument("lesson", required=False)
@click.option("--all", "every", is_flag=True, help="The whole course, with an index and the notes of the lecturer.")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=None,
    help="The page [lessonN.html], or the directory of the course; a new one, or one that didsim made.",
)
def export(lesson: str | None, every: bool, out: Path | None) -> None:
    """Write a lesson as one HTML file that needs nothing else: it works from a disk and asks nothing of the network.

    LESSON is a number or a name of `didsim teach list`.
    """
    if (lesson is None) != every:
        raise click.UsageError("Name a lesson, or use --all; `didsim teach list` names them.")
    if every:
        if out is None:
            raise click.UsageError("Say with -o into which directory the course is to be written.")
        paths = _export_course(out)
    else:
        paths = [_export_page(_find(str(lesson)), out)]
    emit({"pages": [str(path) for path in paths]}, "\n".join(map(str, paths)))


def _find(name: str) -> "Lesson":
    from didsim.lessons import LESSONS

    found = [lesson for lesson in LESSONS.values() if name in (lesson.slug, str(lesson.number))]
    if not found:
        accepted = ", ".join(f"{lesson.number} ({lesson.slug})" for lesson in LESSONS.values())
        raise click.UsageError(f"There is no lesson {name!r}. The lessons are {accepted}.")
    return found[0]


def _export_page(lesson: "Lesson", out: Path | None) -> Path:
    from didsim.experiment import write_atomic
    from didsim.lessons.pages import lesson_page

    path = Path(f"lesson{lesson.number}.html") if out is None else out
    if path.is_dir():
        raise click.UsageError(f"{path} is a directory; -o takes the name of the page, or --all.")
    write_atomic(path, lesson_page(lesson).encode())
    return path


def _export_course(out: Path) -> list[Path]:
    from didsim.experiment import output_directory, write_atomic
    from didsim.lessons import LESSONS
    from didsim.lessons.pages import course

    with output_directory(out):
        for name, page in course(LESSONS):
            write_atomic(out / name, page.encode())
    return [out / name for name in ("index.html", *(f"lesson{lesson.number}.html" for lesson in LESSONS.values()))]


@command_with_examples(
    "didsim teach open did", "didsim teach open 6 --no-browser --port 2718", "didsim teach open did --edit", name="open"
)
@click.argument("lab", required=False)
@click.option("--edit", is_flag=True, help="Copy the notebook here, and open the copy in marimo's editor.")
@click.option("--force", is_flag=True, help="With --edit: replace a copy that is here already.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--port", type=Whole(1, 65535), default=None, help="Of the address [one that is free].")
def open_(lab: str | None, edit: bool, force: bool, no_browser: bool, port: int | None) -> None:
    """Open a lab in the browser: sliders, and the library behind them. Ctrl-C ends it.

    LAB is a name of `didsim teach list`, or the number of its lesson. The lab is served on this machine only, and asks
    nothing of the network. With --edit its cells can be changed, in a file that is yours; one that is here already
    is opened as it is.
    """
    from didsim.lessons.labs.serving import served

    if force and not edit:
        raise click.UsageError("--force replaces the copy that --edit makes; give both.")
    notebook = _find_lab(lab)
    path = _copied(notebook, force) if edit else notebook.path
    with served(path, edit=edit, port=port) as (address, server):
        emit({"lab": notebook.name, "file": str(path), "address": address}, address)
        say("Ctrl-C ends the lab.")
        if not no_browser:
            click.launch(address)
        with suppress(KeyboardInterrupt):
            server.wait()


def _find_lab(name: str | None) -> "Lab":
    from didsim.lessons.labs import LABS

    for lab in LABS.values():
        if name in (lab.name, str(lab.lesson)):
            return lab
    accepted = ", ".join(f"{lab.name} ({lab.lesson})" for lab in LABS.values())
    wrong = "Name a lab" if name is None else f"There is no lab {name!r}"
    raise click.UsageError(f"{wrong}. The labs are {accepted}.")


def _copied(lab: "Lab", force: bool) -> Path:
    """Copy a lab into this directory, unless it is there."""
    from didsim.errors import ResourceError
    from didsim.experiment import write_atomic

    path = Path(lab.path.name)
    if path.is_dir():
        raise ResourceError(f"{path} is a directory here; the copy of the lab would take its place.")
    if force or not os.path.lexists(path):
        write_atomic(path, lab.path.read_bytes())
    else:
        say(f"{path} is here already, and is opened as it is; --force would replace it.")
    return path


@command_with_examples(
    "didsim teach start ex01", "didsim teach start --all -o exercises", "didsim teach start zoo --json"
)
@click.argument("names", nargs=-1, metavar="[EX|zoo]...")
@click.option("--all", "every", is_flag=True, help="All exercises.")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path(), help="Where to put them [here].")
def start(names: tuple[str, ...], every: bool, out: Path) -> None:
    """Copy exercises: files with a hole each, for you to fill in. A file that is there already is left alone.

    "zoo" stands for the two exercises on wrong implementations, ex17 and ex18; ex18 comes with its curves, which take a
    few seconds to make.
    """
    from didsim.lessons.grading import EXERCISES, find
    from didsim.lessons.grading import start as start_exercises

    if bool(names) == every:
        raise click.UsageError(f"Name exercises, or use --all{'; not both' if every else ''}.")
    with usage_errors():
        wanted = [found for name in names for found in (ZOO if name == "zoo" else (find(name).name,))]
    if ZOO[1] in wanted or every:
        say("Training the runs of the zoo, unless their curves are there: some seconds.")
    written, kept = start_exercises(list(EXERCISES) if every else wanted, out)
    lines = [f"Wrote {path}" for path in written]
    lines += [f"Left alone, since it is there already: {path}" for path in kept]
    emit({"written": list(map(str, written)), "kept": list(map(str, kept))}, "\n".join(lines))
    if written:
        say(f"Fill in the hole, then: didsim teach check {next(p for p in written + kept if p.suffix == '.py')}")


ZOO = ("ex17", "ex18")
WIDTH = 98


@command_with_examples("didsim teach check ex01_log_softmax.py", "didsim teach check ex01_log_softmax.py --json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--seconds", type=Number(), default=10.0, show_default=True, help="How long the code of a file may run.")
def check(files: tuple[Path, ...], seconds: float) -> None:
    """Compare your solution with the reference, at random inputs and at extremes.

    This runs the file, as `python FILE` would: check files that you have written, or would run. A file may have any
    name; its line "# exercise: ex01" says which exercise it is. The exit code is 0 if all are right, else 1.
    """
    from didsim.lessons.grading import check_file

    outcomes = [check_file(path, seconds) for path in files]
    documents = [
        {"file": str(o.path), "exercise": o.exercise, "status": o.status, "text": o.text, **o.facts} for o in outcomes
    ]
    emit({"checks": documents}, "\n\n\n".join(outcome.text for outcome in outcomes))
    if any(outcome.status != "right" for outcome in outcomes):
        raise click.exceptions.Exit(1)


@command_with_examples("didsim teach hint ex01", "didsim teach hint ex01 2")
@click.argument("name", metavar="EX")
@click.argument("number", type=Whole(1, 9), default=1, metavar="[N]")
def hint(name: str, number: int) -> None:
    """Give a hint for an exercise: the first, or the N-th; each says more than the one before."""
    from didsim.lessons.grading import find

    with usage_errors():
        exercise = find(name)
        name, hints = exercise.name, exercise.hints
        if number > len(hints):
            raise ValueError(f"{name} has {len(hints)} hints; got {number}. After them: didsim teach solution {name}")
    more = f"didsim teach hint {name} {number + 1}" if number < len(hints) else f"didsim teach solution {name}"
    document = {"exercise": name, "number": number, "of": len(hints), "hint": hints[number - 1]}
    emit(document, fill(f"Hint {number} of {len(hints)}: {hints[number - 1]}", WIDTH) + f"\n\nMore: {more}")


@command_with_examples("didsim teach solution ex01", "didsim teach solution ex18 --json")
@click.argument("name", metavar="EX")
def solution(name: str) -> None:
    """Show the solution of an exercise: what `didsim teach check` compares with."""
    from didsim.lessons.grading import find
    from didsim.lessons.grading import solution as solution_of

    with usage_errors():
        name = find(name).name
    emit({"exercise": name, "solution": solution_of(name)}, solution_of(name))


for command in (list_, export, open_, start, check, hint, solution):
    teach.add_command(command)
