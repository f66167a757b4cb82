"""The commands `didsim teach …`: thin, and quick to load; the work is done in `didsim.lessons`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from didsim._terminal import command_with_examples, common_options, emit, table

if TYPE_CHECKING:
    from didsim.lessons import Lesson


@click.group(name="teach", short_help="The course: pages for the lecturer, labs and exercises for students.")
@common_options
def teach() -> None:
    """Teach preference optimisation: pages with a slider each, labs, and exercises that check themselves.

    Pages and labs need the extra: pip install 'didsim[teach]'.
    """


@command_with_examples("didsim teach list", "didsim teach list --json", name="list")
def list_() -> None:
    """Name the lessons of the course."""
    from didsim.lessons import LESSONS

    rows = [[str(lesson.number), name, str(lesson.minutes), lesson.title] for name, lesson in LESSONS.items()]
    documents = [{"number": x.number, "name": x.slug, "minutes": x.minutes, "title": x.title} for x in LESSONS.values()]
    emit({"lessons": documents}, table(["lesson", "name", "minutes", "title"], rows))


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


teach.add_command(list_)
teach.add_command(export)
