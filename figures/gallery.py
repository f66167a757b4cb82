"""Write README.md of this folder: for each committed figure its picture, what it shows, and its command."""

import json
from html import escape
from pathlib import Path

FIGURES = Path(__file__).resolve().parent
THUMBNAIL = 400
"""The width of a picture in pixels."""

PAPERS = ("DID paper", "MI-DPO paper", "α-DPO paper", "RMiPO paper", "Ours")
"""What the sources of figures begin with, in the order of the page."""


def gallery() -> str:
    """Return the page: by paper, and within one in the order of names."""
    parts = ["# Gallery", "Each figure is made by one command; its numbers lie beside it as CSV, its plan as JSON."]
    papers: dict[str, list[str]] = {paper: [] for paper in PAPERS}
    for path in sorted(FIGURES.glob("*.json")):
        about = json.loads(path.read_text("utf-8"))
        papers[_capitalised(about["source"]).partition(",")[0]] += _figure(about)
    for paper, figures in papers.items():
        parts += [f"## {paper}", *figures]
    return "\n\n".join(parts) + "\n"


def _figure(about: dict) -> list[str]:
    """Return the paragraphs about one figure."""
    name = about["experiment"]
    return [
        f"### {about['title']}",
        f'<a href="{name}.png"><img src="{name}.png" alt="{escape(about["alt"])}" width="{THUMBNAIL}"></a>',
        f"{_capitalised(about['source'])}. `didsim reproduce {name}`",
        f"<details><summary>What is seen</summary>\n\n{about['caption']}\n\n</details>",
    ]


def _capitalised(text: str) -> str:
    """Return a text with a capital at its start; a Greek letter there is a name, as in α-DPO."""
    return text[0].upper() + text[1:] if text[0].isascii() else text


if __name__ == "__main__":
    (FIGURES / "README.md").write_text(gallery(), encoding="utf-8")
