"""Pages of the course: HTML files with everything in them. They need the extra `didsim[teach]`."""

import importlib.util

from didsim.errors import MissingExtraError

if importlib.util.find_spec("latex2mathml") is None:
    raise MissingExtraError("The pages of the course need latex2mathml: pip install 'didsim[teach]'")

from didsim.lessons._page import code_of, course, index_page, lesson_page, notes_page, script_of, verdict_of

__all__ = ["code_of", "course", "index_page", "lesson_page", "notes_page", "script_of", "verdict_of"]
