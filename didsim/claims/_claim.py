"""What the ledger keeps of a theorem or claim, and what a check of it says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from didsim.claims._fields import Field, Instance

VERDICTS = ("holds", "holds-conditionally", "approximate", "fails", "inconclusive")

Condition = tuple[str, Callable[[Instance], bool]]
"""What a statement supposes, in words and as code."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A negative control: an instance that breaks one assumption, and for which the check must fail.

    Attributes:
        breaks: the assumption that it breaks, as the claim words it.
        instance: its data; it meets all other assumptions, and the condition of the claim, if there is one.
    """

    breaks: str
    instance: Instance


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement with its check.

    Attributes:
        name: such as "did.thm-3.3".
        statement: the statement in one sentence.
        source: paper, number and equation.
        verdict: the recorded one, which the check must find again.
        note: what a student should know, in plain text of two to six sentences.
        fields: what an instance of the statement is made of.
        check: takes an instance, and returns by how much it violates the statement: a residual ≥ 0.
        tolerance: the largest residual that counts as none.
        reason: why the tolerance is what it is.
        control: the negative control.
        assumptions: what the statement supposes, in words, with predicates of instances.
        condition: what has to be supposed beyond the paper for the statement to hold; None if nothing would help, or
            nothing is missing.
        bound: for a verdict of "approximate", the largest residual that still counts as approximately true.
        cost: how many draws of an ordinary claim one draw of this takes; so many fewer are drawn.
        corrected: the name of the claim that does hold, if there is one.
        picture: draws a figure of the claim for the report on matplotlib axes [1, 1]; None if words say it all.
    """

    name: str
    statement: str
    source: str
    verdict: str
    note: str
    fields: Mapping[str, Field]
    check: Callable[[Instance], float]
    tolerance: float
    reason: str
    control: Control
    assumptions: Mapping[str, Callable[[Instance], bool]] = field(default_factory=dict)
    condition: Condition | None = None
    bound: float | None = None
    cost: int = 1
    corrected: str | None = None
    picture: Callable[..., None] | None = None

    @cached_property
    def counterexample(self) -> Instance | None:
        """The saved instance that meets the assumptions and violates the statement, or None if there is none."""
        path = COUNTEREXAMPLES / f"{self.name}.json"
        return json.loads(path.read_text("utf-8"))["instance"] if path.is_file() else None

    def meets_assumptions(self, instance: Instance) -> bool:
        """Return whether the statement as printed is about an instance."""
        return all(holds(instance) for holds in self.assumptions.values())

    def meets_condition(self, instance: Instance) -> bool:
        """Return whether an instance meets what has to be supposed beyond the paper."""
        return self.condition is None or self.condition[1](instance)


COUNTEREXAMPLES = Path(__file__).parent / "counterexamples"
"""Where saved counterexamples lie, one JSON file for each claim that has one."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a check of a claim found.

    Attributes:
        claim: the claim.
        verdict: what follows from the residuals.
        instances: how many instances were checked.
        residual: the largest residual of those that decide: of instances that meet the condition too, if there is one.
        control: the residual of the negative control.
        counterexample: an instance that violates the statement as printed, or None.
        violation: its residual, or None.
        sentence: the finding in words.
    """

    claim: Claim
    verdict: str
    instances: int
    residual: float
    control: float
    counterexample: Instance | None
    violation: float | None
    sentence: str

    @property
    def name(self) -> str:
        """The name of the claim."""
        return self.claim.name

    @property
    def note(self) -> str:
        """What a student should know."""
        return self.claim.note

    @property
    def agrees(self) -> bool:
        """Whether the verdict is the recorded one."""
        return self.verdict == self.claim.verdict
