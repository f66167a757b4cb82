"""The commands `didsim teach …`: thin, and quick to load; the work is done in `didsim.lessons`."""

import click

from didsim._terminal import command_with_examples, common_options, emit, table


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
    heads = ["lesson", "name", "minutes", "title"]
    documents = [{"number": x.number, "name": x.slug, "minutes": x.minutes, "title": x.title} for x in LESSONS.values()]
    emit({"lessons": documents}, table(heads, rows))


teach.add_command(list_)
