"""From the words of a lesson to HTML: numbers, formulas, and a little markup."""

import math
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal, localcontext
from html import escape

from latex2mathml.converter import convert

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

VANISHING = 1e-12
"""What is smaller is the rounding of a zero, and shown as one."""


def say(value: float | str, digits: int) -> str:
    """Return a number with so many decimals; very small and very large ones as 1.2 × 10⁻⁵. Words stay as they are."""
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size < VANISHING:
        return "0"
    if 0.5 * 10**-digits <= size < 1e6:
        return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)).replace("-", "−")
    with localcontext(rounding=ROUND_HALF_UP, prec=2):
        mantissa, exponent = f"{+Decimal(value):.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")


def tick(value: float) -> str:
    """Return the number beside a tick of an axis."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"10{str(round(math.log10(value))).translate(SUPERSCRIPTS)}"
    return f"{value:g}".replace("-", "−")


MACROS = {r"\piref": r"\pi_{\mathrm{ref}}", r"\pil": r"\pi_{l}", r"\pistar": r"\pi^{*}"}
"""What the lessons write most often."""


def formula(latex: str, *, block: bool = False) -> str:
    """Return a formula as MathML, with the space after the name of a function that the converter leaves out."""
    for name, meaning in MACROS.items():
        latex = latex.replace(name, meaning)
    mathml = convert(latex, display="block" if block else "inline")
    return re.sub(
        r"(<mi>(?:log|exp|sup|min|max)</mi>)(?=<m(?:i|n|sub|sup|frac)\b)", r'\1<mspace width="0.17em"/>', mathml
    )


def subscripts(text: str) -> str:
    """Return a name for a drawing, in which _ref and _l are set below the line."""
    return re.sub(r"_(\w+)", r'<tspan class="sub" dy="3">\1</tspan><tspan dy="-3">&#8203;</tspan>', escape(text))


def inline(text: str) -> str:
    """Return a line of text with its ``$formulas$``, ``*emphasis*`` and ```code``` as HTML."""
    parts = re.split(r"(\$[^$]+\$|`[^`]+`)", text)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if part.startswith("$") and part.endswith("$") and len(part) > 1:
        return formula(part[1:-1])
    if part.startswith("`") and part.endswith("`") and len(part) > 1:
        return f"<code>{escape(part[1:-1])}</code>"
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", escape(part))


def paragraphs(text: str) -> str:
    """Return text as paragraphs, which blank lines separate."""
    return "\n".join(f"<p>{inline(' '.join(block.split()))}</p>" for block in text.strip().split("\n\n"))


PLACE = re.compile(r"\{(\w+)(?::(\d))?\}")
"""Where a number stands in a sentence: its name, and how many decimals it has."""


def sentence(text: str, numbers: Mapping[str, float | str]) -> str:
    """Return a sentence as HTML, in which each number can be found again by the page's script."""

    def number(name: str, digits: str) -> str:
        return f'<span data-number="{name}" data-digits="{digits}">{escape(say(numbers[name], int(digits)))}</span>'

    def filled(part: str) -> str:
        if part.startswith("$"):  # the braces of a formula are LaTeX's
            return inline(part)
        pieces = PLACE.split(part)
        values = [number(name, digits or "3") for name, digits in zip(pieces[1::3], pieces[2::3], strict=True)]
        return "".join(inline(piece) + value for piece, value in zip(pieces[::3], [*values, ""], strict=True))

    return "".join(filled(part) for part in re.split(r"(\$[^$]+\$)", text))
