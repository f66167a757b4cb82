"""What the doctor hands back: findings in plain words, and the objectives that the loss equals."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SEVERITY = {"problem": 0, "warning": 1, "ok": 2, "info": 3}
"""How grave a status is; reports begin with the gravest."""

SYMBOLS = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "lam": "λ", "tau": "τ"},
    "rho": "ρ",
}


def symbol(name: str) -> str:
    """Return the Greek letter of a hyperparameter that is named after one."""
    return SYMBOLS.get(name, name)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, in one or two words.
        status: "ok", "info", "warning", or "problem".
        sentence: what was seen, what it means, and what to do.
    """

    name: str
    status: str
    sentence: str


@dataclass(frozen=True)
class Match:
    """A registered objective that the loss equals in value and gradient.

    Attributes:
        name: the objective's name in `OBJECTIVES`.
        hyperparameters: those of the objective, at which the two are equal.
        aggregation: "none" for one loss per pair, else "mean" or "sum" over pairs.
        follows: whether they stay equal when the function's own hyperparameters change.
    """

    name: str
    hyperparameters: Mapping[str, Any]
    aggregation: str
    follows: bool

    def __str__(self) -> str:
        values = ", ".join(f"{symbol(name)} = {_short(value)}" for name, value in self.hyperparameters.items())
        return f"{self.name} at {values}" if values else self.name


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        function: the function's name.
        hyperparameters: the values at which it was called.
        findings: the gravest first.
        equals: the registered objectives that it equals, the closest first.
    """

    function: str
    hyperparameters: Mapping[str, Any]
    findings: tuple[Finding, ...]
    equals: tuple[Match, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no finding is a problem."""
        return not self.count("problem")

    def count(self, status: str) -> int:
        """Return the number of findings of a status."""
        return sum(finding.status == status for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return the report as numbers, words and lists, fit for JSON."""
        return {
            "function": self.function,
            "hyperparameters": _plain(self.hyperparameters),
            "ok": self.ok,
            "equals": [{**asdict(match), "hyperparameters": _plain(match.hyperparameters)} for match in self.equals],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        return f"{self.function}({values})\n{in_words(self.findings)}"


def in_words(findings: Sequence[Finding]) -> str:
    """Return findings, each on lines of its own, and what they come to."""
    lines = [_wrapped(f"{finding.status:<8} {finding.name}: {finding.sentence}") for finding in findings]
    counts = [(sum(found.status == status for found in findings), status) for status in ("problem", "warning")]
    said = [f"{number} {status}{'s' if number > 1 else ''}" for number, status in counts if number]
    return "\n".join([*lines, f"Found {' and '.join(said)}." if said else "No problem found."])


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 110, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that JSON can hold: it has no infinity."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """Put the gravest first, and leave the order otherwise."""
    return tuple(sorted(findings, key=lambda finding: SEVERITY[finding.status]))


__all__ = ["Finding", "Match", "Report", "by_severity", "in_words", "symbol"]
