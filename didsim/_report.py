"""The page of `didsim verify --report`: one HTML file with everything in it, and no script."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from didsim import __version__

PAPERS = {
    "did": "Differential Information paper",
    "mi": "MI-DPO paper",
    "alpha": "α-DPO paper",
    "rmipo": "RMiPO paper",
    "x": "Our own statements",
}
"""The sections of the page, by the first word of a claim's name."""

VERDICTS = {
    "holds": ("✓", "no counterexample was found; unless the note has the proof, that is no proof"),
    "holds-conditionally": ("◐", "fails as printed; no counterexample where a further condition is met"),
    "approximate": ("≈", "not exact, but within a stated bound"),
    "fails": ("✗", "a counterexample violates it, and no condition was found that helps"),
    "inconclusive": ("?", "the check cannot fail, and so says nothing"),
}
"""A sign and a meaning of each verdict."""

FIGURE_SIZE = (4.6, 2.9)


def page(results: Sequence[Any], draws: int, seed: int) -> str:
    """Return the page as HTML; the same results make the same bytes.

    Args:
        results: of the claims, in the order of the page within each paper.
        draws: how many random instances an ordinary claim was checked at.
        seed: of the draws.
    """
    names = {result.name for result in results}
    papers = _by_paper(results)
    corrects: dict[str, list[str]] = {}
    for result in results:
        if result.claim.corrected is not None:
            corrects.setdefault(result.claim.corrected, []).append(result.name)
    sections = [
        f'<section aria-labelledby="{_id(paper)}">\n<h2 id="{_id(paper)}">{escape(paper)}</h2>\n'
        + "\n".join(_article(result, names, corrects.get(result.name, [])) for result in group)
        + "\n</section>"
        for paper, group in papers.items()
    ]
    style = files("didsim").joinpath("_report.css").read_text("utf-8")
    body = "\n".join([_header(results, draws, seed), _summary(papers), *sections, FOOTER])
    return HEAD.replace("STYLE", style) + body + "\n</body>\n</html>\n"


HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>didsim verify: theorems and claims, checked</title>
<style>
STYLE</style>
</head>
<body>
"""

FOOTER = """<footer>
<p>In formulas: π policy, π_ref reference, π* target, π_l rejected distribution, q differential information, K number of
responses, w chosen, l rejected; distances in nats.
An instance is checked again by <code>didsim verify --replay FILE</code>.</p>
</footer>"""
FOOTER = FOOTER.replace("π_ref", "π<sub>ref</sub>").replace("π_l", "π<sub>l</sub>")


def _by_paper(results: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the results of each paper, papers in the order of `PAPERS`."""
    groups: dict[str, list[Any]] = {paper: [] for paper in PAPERS.values()}
    for result in results:
        first = str(result.name).partition(".")[0]
        groups.setdefault(PAPERS.get(first, first), []).append(result)
    return {paper: group for paper, group in groups.items() if group}


def _id(text: str) -> str:
    """Return a text as an id of the page."""
    return re.sub(r"[^\w.-]+", "-", text)


# --- the top ----------------------------------------------------------------------------------------------


def _header(results: Sequence[Any], draws: int, seed: int) -> str:
    counts = Counter(result.verdict for result in results)
    differ = [result.name for result in results if not result.agrees]
    cards = "\n".join(
        f'<li class="v-{verdict}"><span class="count">{counts[verdict]}</span>{badge(verdict)}'
        f"<span>{escape(meaning)}</span></li>"
        for verdict, (_, meaning) in VERDICTS.items()
        if counts[verdict]
    )
    agreement = "Every verdict is the recorded one."
    if differ:
        agreement = f"<strong>{len(differ)} not as recorded:</strong> {', '.join(_link(name) for name in differ)}."
    noun = "claim" if len(results) == 1 else "claims"
    return f"""<header>
<h1>Theorems and claims, checked</h1>
<p>Each of {len(results)} {noun} was checked numerically: at random instances that meet its assumptions ({draws} of an
ordinary claim, fewer of a costly one; seed {seed}; didsim {escape(__version__)}), at its saved counterexample if there
is one, and at a <em>negative control</em>, an instance that breaks an assumption and for which the check must fail.
{agreement}</p>
<ul class="counts">
{cards}
</ul>
</header>"""


def _summary(papers: Mapping[str, list[Any]]) -> str:
    """Return the table of all claims, each with a link to its part of the page."""
    links = " · ".join(f'<a href="#{_id(paper)}">{escape(paper)}</a>' for paper in papers)
    bodies = "\n".join(
        f'<tbody>\n<tr class="paper"><th colspan="6" scope="rowgroup">{escape(paper)}</th></tr>\n'
        + "\n".join(_summary_row(result) for result in group)
        + "\n</tbody>"
        for paper, group in papers.items()
    )
    return f"""<nav aria-label="Papers">{links}</nav>
<section aria-labelledby="summary">
<h2 id="summary">Summary</h2>
<div class="scroll" tabindex="0" role="region" aria-labelledby="summary">
<table class="summary">
<thead><tr><th scope="col">claim</th><th scope="col">verdict</th><th scope="col">source</th>
<th scope="col" class="number">worst residual</th><th scope="col" class="number">tolerance</th>
<th scope="col" class="number">instances</th></tr></thead>
{bodies}
</table>
</div>
</section>"""


def _summary_row(result: Any) -> str:
    recorded = "" if result.agrees else f' <span class="differs">recorded: {escape(result.claim.verdict)}</span>'
    return (
        f'<tr><th scope="row">{_link(result.name)}</th><td class="verdict">{badge(result.verdict)}{recorded}</td>'
        f'<td class="source">{sentence(result.claim.source, set())}</td>'
        f'<td class="number residual">{number(result.residual)}</td>'
        f'<td class="number tolerance">{number(result.claim.tolerance)}</td>'
        f'<td class="number instances">{result.instances}</td></tr>'
    )


# --- one claim --------------------------------------------------------------------------------------------


def _article(result: Any, names: set[str], corrects: Sequence[str]) -> str:
    """Return the part of the page on one claim."""
    claim, name = result.claim, escape(result.name)
    recorded = "" if result.agrees else f' <strong class="differs">recorded: {escape(claim.verdict)}</strong>'
    found = sentence(result.sentence, names)
    rows = [
        ("Found", f"{found[0].upper()}{found[1:]}.{recorded}"),
        (
            "Residual",
            f"{number(result.residual)} at most, tolerance {number(claim.tolerance)}: {sentence(claim.reason, names)}",
        ),
        ("Assumptions", _listed([sentence(words, names) for words in claim.assumptions])),
        ("Condition", "" if claim.condition is None else sentence(claim.condition[0], names)),
        ("Corrected", "" if claim.corrected is None else _reference(claim.corrected, names)),
        ("Corrects", ", ".join(map(_link, corrects))),
        ("Note", sentence(claim.note, names)),
        ("Source", sentence(claim.source, names)),
    ]
    terms = "\n".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in rows if text)
    return f"""<article id="{name}" class="v-{result.verdict}">
<h3><span class="name">{name}</span> {badge(result.verdict)}</h3>
<p class="statement">{sentence(claim.statement, names)}</p>
{_figure(claim)}<dl>
{terms}
</dl>
<div class="instances">
{_counterexample(result)}{_control(result, names)}
</div>
</article>"""


def _listed(texts: Sequence[str]) -> str:
    if len(texts) < 2:
        return "".join(texts)
    return "<ul>" + "".join(f"<li>{text}</li>" for text in texts) + "</ul>"


def _counterexample(result: Any) -> str:
    if result.counterexample is None:
        return ""
    return f"""<section class="data">
<h4>Counterexample</h4>
<p>Residual {number(result.violation)}.</p>
{data(result.counterexample)}
</section>
"""


def _control(result: Any, names: set[str]) -> str:
    control = result.claim.control
    fails = result.control > result.claim.tolerance
    return f"""<section class="data">
<h4>Negative control</h4>
<p>Without the assumption “{sentence(control.breaks, names)}”: residual {number(result.control)}, so the check
{"fails, as it must" if fails else "passes, and says nothing"}.</p>
{data(control.instance)}
</section>"""


def badge(verdict: str) -> str:
    """Return a verdict as a coloured word with a sign."""
    sign = VERDICTS[verdict][0]
    return f'<span class="badge v-{verdict}"><span aria-hidden="true">{sign}</span> {escape(verdict)}</span>'


def _link(name: str) -> str:
    return f'<a class="name" href="#{escape(name)}">{escape(name)}</a>'


def _reference(name: str, names: set[str]) -> str:
    """Return a link to a claim if it is on the page, else its name."""
    return _link(name) if name in names else f'<span class="name">{escape(name)}</span>'


# --- text and data ----------------------------------------------------------------------------------------

_NAME = re.compile(r"\b(?:did|mi|alpha|rmipo|x)\.[A-Za-z0-9](?:[\w.-]*\w)?")
_INDEX = re.compile(
    r"(?<![^\W_])(?<!_)(Var|[^\W\d_][\u0302\u0303]?)_((?:ref|old|max|min|SimPO|α-DPO|MI-DPO)\b|[^\W_]\b)"
)

_POWER_OF_TEN = re.compile(r"(?<![\w.])\d(?:\.\d+)?e-?\d+(?!\w)")


def sentence(text: str, names: set[str]) -> str:
    """Return a text as HTML: with code in backticks, names of claims as links, and short indices and powers."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else _formulas(escape(p), names) for i, p in enumerate(parts))


def _formulas(text: str, names: set[str]) -> str:
    text = _NAME.sub(lambda found: _link(found[0]) if found[0] in names else found[0], text)
    text = _POWER_OF_TEN.sub(lambda found: number(float(found[0])), text)
    text = _INDEX.sub(r"\1<sub>\2</sub>", text)
    text = re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", text)
    text = re.sub(r"\^\{([^{}]*)\}", r"<sup>\1</sup>", text)
    return re.sub(r"\^(\([^()]*\)|−?[^\W_]+)", r"<sup>\1</sup>", text)


def number(value: float) -> str:
    """Return a number with three significant digits, in powers of ten where it is small or large."""
    if value != value or value in (float("inf"), float("-inf")):
        return "∞" if value == float("inf") else escape(str(value))
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    digits = mantissa.replace("-", "−")
    power = f"10<sup>{str(int(exponent)).replace('-', '−')}</sup>" if exponent else ""
    return power if power and digits == "1" else "·".join(part for part in (digits, power) if part)


def data(instance: Mapping[str, Any]) -> str:
    """Return an instance as a table of names and values."""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_value(value)}</td></tr>' for name, value in instance.items()
    )
    return f'<div class="scroll">\n<table class="data">\n{rows}\n</table>\n</div>'


def _value(value: Any) -> str:
    """Return a value of an instance: vectors in parentheses, matrices with a line for each row."""
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        return "<br>".join(_value(item) for item in value)
    if isinstance(value, list):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.6g}".replace("-", "−") if isinstance(value, float) else escape(str(value))


# --- figures ----------------------------------------------------------------------------------------------


def _figure(claim: Any) -> str:
    """Return a claim's figure, or nothing if it has none."""
    if claim.picture is None:
        return ""
    from didsim.plotting import render

    caption = _caption(claim)
    files = render(claim.picture, (1, 1), FIGURE_SIZE, ("svg",), "paper", claim.name, caption)
    drawing = inline(files["svg"].decode(), _id(claim.name))
    return f"<figure>\n{drawing}\n<figcaption>{sentence(caption, set())}</figcaption>\n</figure>\n"


def _caption(claim: Any) -> str:
    """Say what a picture shows: the first line of its function's docstring, without the verb."""
    text = (claim.picture.__doc__ or claim.statement).strip().partition("\n")[0].removeprefix("Draw ")
    return f"{text[:1].upper()}{text[1:]}" if text[:1].isascii() else text


def inline(svg: str, prefix: str) -> str:
    """Return an SVG file as an element of a page: with ids of its own, as wide as the page allows, and no styles."""
    svg = svg[svg.index("<svg ") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)  # it would count for the whole page
    svg = re.sub(r'\b(id|xlink:href|href)="(#?)([^"]+)"', rf'\1="\g<2>{prefix}.\3"', svg)
    svg = svg.replace("url(#", f"url(#{prefix}.")
    head, closing, rest = svg.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    labelled = f'{head} aria-labelledby="{prefix}.title {prefix}.description"'
    rest = rest.replace("<title>", f'<title id="{prefix}.title">', 1)
    return labelled + closing + rest.replace("<desc>", f'<desc id="{prefix}.description">', 1)
