"""The pages of the site that are written from the library: objectives, claims, interface, gallery, course.

MkDocs calls `on_files` before it builds (`hooks:` in mkdocs.yml), and mkdocstrings reads docstrings by `Docstrings`
(`extensions:` there). Nothing here is written by hand twice: an objective's page is its record, a claim's is its entry
in the ledger, the gallery's is what lies in figures/.
"""

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import didsim

ROOT = Path(__file__).parent.parent

MODULES = (
    *("didsim", "didsim.policy", "didsim.spaces", "didsim.preference", "didsim.info", "didsim.differential"),
    *("didsim.objectives", "didsim.optima", "didsim.stationary", "didsim.engine", "didsim.identification"),
    "didsim.worlds",
    *("didsim.claims", "didsim.doctor", "didsim.experiment", "didsim.plotting", "didsim.lessons", "didsim.llm"),
    *("didsim.torch_bridge", "didsim.errors"),
)
"""Public modules, from the bottom up."""

PAPERS = {
    "did": "Differential Information",
    "mi": "MI-DPO",
    "alpha": "α-DPO",
    "rmipo": "RMiPO",
    "x": "Ours",
}
"""The papers that names of claims begin with."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is written from the library."""
    for path, text in _pages():
        files.append(File.generated(config, path, content=_markdown(text) if path.endswith(".md") else text))
    for path in sorted((ROOT / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def _pages() -> Iterator[tuple[str, str]]:
    yield "index.md", _home()
    yield "changes.md", (ROOT / "CHANGELOG.md").read_text("utf-8")
    gallery = (ROOT / "figures" / "README.md").read_text("utf-8")
    yield "gallery.md", re.sub(r'(href|src)="', r'\1="figures/', gallery)
    yield from _objectives()
    yield from _claims()
    yield from _interface()
    yield from _course()


def _home() -> str:
    """Return the README, whose links to files of the repository lead to their pages."""
    text = (ROOT / "README.md").read_text("utf-8")
    pages = {"CHANGELOG.md": "changes.md", "figures/README.md": "gallery.md"}
    for old, new in pages.items():
        text = text.replace(f"]({old})", f"]({new})")
    text = re.sub(r"\[([^\]]*)\]\((?!https?:|#|figures/|changes|gallery)[^)]*\)", r"\1", text)
    return re.sub(r"^(!\[[^\]]*\]\(([^)]*)\))$", r"[\1](\2)", text, flags=re.MULTILINE)  # to see a picture enlarged


# --- objectives -------------------------------------------------------------------------------------------


def _objectives() -> Iterator[tuple[str, str]]:
    from didsim import OBJECTIVES
    from didsim._catalogue import NOTATION, explain

    records = [explain(record)[0] for record in OBJECTIVES.values()]
    rows = [[f"[`{r['name']}`]({r['name']}.md)", r["title"], f"`{r['formula']}`"] for r in records]
    table = _table(["name", "method", "loss per pair"], rows)
    yield "objectives/index.md", f"# Objectives\n\n{len(rows)} losses, each written once. {NOTATION}\n\n{table}\n"
    for record in records:
        yield f"objectives/{record['name']}.md", _objective(record)


def _objective(record: dict[str, Any]) -> str:
    from didsim._catalogue import NOTATION
    from didsim.objectives import NEEDS

    parts = [f"# {record['name']}: {record['title']}", f"`{record['formula']}`", NOTATION, f"*{record['source']}.*"]
    needs = "; ".join(NEEDS[name] for name in record["needs"]) or "nothing else"
    parts += [f"Beside log π of both responses it looks at: {needs}."]
    if record["parameters"]:
        keys = ("name", "default", "domain", "grid", "meaning")
        rows = [[_shown(parameter[key]) for key in keys] for parameter in record["parameters"]]
        parts += ["## Hyperparameters", _table(["name", "default", "domain", "search grid", "meaning"], rows)]
    if record["conventions"]:
        parts += ["## Conventions", "\n".join(f"- {words}" for words in record["conventions"])]
    if record["implementations"]:
        rows = [
            [found["library"], f"`{found['name']}`", "the same" if found["same"] else "differs", found["computes"]]
            for found in record["implementations"]
        ]
        parts += [
            "## Under this name elsewhere",
            _table(["library", "name there", "formula", "what it computes"], rows),
        ]
    name = record["name"]
    tries = f'```sh\ndidsim objective {name}\ndidsim solve {name}\n```\n\n```py\nds.objective("{name}")\n```'
    return "\n\n".join([*parts, "## Try it", tries, ""])


# --- claims -----------------------------------------------------------------------------------------------


def _claims() -> Iterator[tuple[str, str]]:
    from didsim import CLAIMS

    groups = {paper: [c for c in CLAIMS.values() if c.name.split(".")[0] == paper] for paper in PAPERS}
    rows = []
    for paper, claims in groups.items():
        counts = [sum(c.verdict == verdict for c in claims) for verdict in ("holds", "holds-conditionally", "fails")]
        rows.append([f"[{PAPERS[paper]}]({paper}.md)", *map(str, counts)])
        articles = "\n\n".join(_claim(claim) for claim in claims)
        yield f"claims/{paper}.md", f"# Claims: {PAPERS[paper]}\n\n{articles}\n"
    text = (
        "# The ledger of claims\n\nEach theorem or claim is a check at random instances, with a negative control that "
        "must fail. *Holds* means that no counterexample was found. `didsim verify NAME` finds a verdict again, and "
        "`didsim verify --report claims.html` writes all of them with their counterexamples and figures."
    )
    yield (
        "claims/index.md",
        f"{text}\n\n{_table(['paper', 'holds', 'holds conditionally', 'fails as printed'], rows)}\n",
    )


def _claim(claim: Any) -> str:
    lines = [f"## {claim.name}", f"**{claim.verdict}.** {claim.statement}", claim.note]
    if claim.condition is not None:
        lines.append(f"*Condition:* {claim.condition[0]}.")
    if claim.corrected is not None:
        paper = claim.corrected.split(".")[0]
        lines.append(f"*What holds in its place:* [{claim.corrected}]({paper}.md#{_anchor(claim.corrected)}).")
    return "\n\n".join([*lines, f"*{claim.source}.*"])


def _anchor(name: str) -> str:
    """Return the anchor that Markdown's table of contents gives a heading."""
    return re.sub(r"[^\w\s-]", "", name).strip().lower()


# --- interface, course ------------------------------------------------------------------------------------


def _interface() -> Iterator[tuple[str, str]]:
    rows = []
    for name in MODULES:
        module = importlib.import_module(name)
        rows.append([f"[`{name}`]({name}.md)", _first_line(module)])
        members = "\n".join(f"        - {member}" for member in _members(module))
        chosen = f"      members:\n{members}\n" if members else "      members: false\n"
        yield f"api/{name}.md", f"# {name}\n\n::: {name}\n    options:\n{chosen}\n{_front_door(module)}"
    yield "api/index.md", f"# Python interface\n\n{_table(['module', 'what it is'], rows)}\n"


def _members(module: ModuleType) -> list[str]:
    """Return what a module offers: the front door only repeats what the others define."""
    names = [] if module is didsim else module.__all__
    return [name for name in names if not isinstance(getattr(module, name), ModuleType)]


def _front_door(module: ModuleType) -> str:
    """Return a table of the names of the front door, each with a link to where it is explained."""
    if module is not didsim:
        return ""
    homes: dict[str, list[str]] = {}
    for name, home in didsim._HOME.items():
        homes.setdefault(home, []).append(f"[`{name}`][{home}.{name}]")
    rows = [[f"[`{home}`]({home}.md)", " ".join(homes[home])] for home in MODULES if home in homes]
    return _table(["from", "names"], rows)


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


def _course() -> Iterator[tuple[str, str]]:
    from didsim.lessons import LESSONS
    from didsim.lessons.pages import course

    rows = []
    for lesson in LESSONS.values():
        page = f"course/lesson{lesson.number}"
        rows.append([f"[{lesson.number}. {lesson.title}]({page}.html)", lesson.aim, f"[notes]({page}-notes.html)"])
    text = (ROOT / "docs" / "teaching.md").read_text("utf-8")
    yield "course.md", text.replace("LESSONS", _table(["lesson", "aim", "for the lecturer"], rows))
    for name, page in course(LESSONS):
        yield f"course/{name}", page


# --- Markdown ---------------------------------------------------------------------------------------------


def _markdown(text: str) -> str:
    """Return what Python-Markdown shows as GitHub shows the text: the bars and stars of mathematics."""
    return _starred(_barred(text))


def _starred(text: str) -> str:
    """Keep the star of π* from beginning emphasis, outside code."""
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)
    return "".join(part if i % 2 else re.sub(r"(?<![\w*])(\w)\*(?!\*)", r"\1\\*", part) for i, part in enumerate(parts))


def _barred(text: str) -> str:
    """Unescape the bars of code in tables: GitHub wants the backslash there, Python-Markdown shows it."""

    def row(line: re.Match[str]) -> str:
        return re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), line[0])

    return re.sub(r"^\|.*$", row, text, flags=re.MULTILINE)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: examples become blocks of code, and stars of mathematics stay."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _starred(_fenced(obj.docstring.value))


def _fenced(text: str) -> str:
    """Fence each example of the interactive prompt, up to the next blank line."""
    return re.sub(r"^>>> .*(?:\n.*\S.*)*", r"```pycon\n\g<0>\n```", text, flags=re.MULTILINE)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return json.dumps(value) if isinstance(value, bool) else str(value)
