"""`didsim verify --replay`: read an instance of a claim from a file, and say what it does to the claim."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from didsim._checks import did_you_mean
from didsim.errors import BadDataError

Instance = dict[str, Any]

LARGEST_FILE = 10**7
"""No instance takes so many bytes."""


def replay(path: Path) -> tuple[dict[str, Any], str, bool]:
    """Evaluate a claim at the instance of a file.

    Args:
        path: of a JSON file {"claim": name, "instance": {...}}, as the saved counterexamples are.

    Returns:
        A document, a text, and whether the instance contradicts the recorded verdict.

    Raises:
        BadDataError: if there is no such file, or it holds no instance of a claim.
    """
    claim, instance = read_instance(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be computed ends as a residual of infinity
            broken = [words for words, holds in claim.assumptions.items() if not holds(instance)]
            inside = None if claim.condition is None else bool(claim.meets_condition(instance))
            residual = float(claim.check(instance))
    except Exception as error:
        raise BadDataError(f"{path}: {claim.name} cannot take it: {type(error).__name__}: {error}.") from error
    residual = math.inf if math.isnan(residual) else residual
    exceeds = residual > claim.tolerance
    document = {
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "recorded": claim.verdict,
        "meets_assumptions": not broken,
        "broken": broken,
        "meets_condition": inside,
        "residual": residual,
        "tolerance": claim.tolerance,
        "violates": exceeds and not broken,
        "sentence": _sentence(claim, broken, inside, exceeds),
        "instance": instance,
    }
    return document, _text(claim, document), not broken and _contradicts(claim, inside, residual)


def _contradicts(claim: Any, inside: bool | None, residual: float) -> bool:
    """Return whether an instance that meets the assumptions is not what the recorded verdict leads to expect."""
    match claim.verdict:
        case "holds":
            return residual > claim.tolerance
        case "holds-conditionally":
            return bool(inside) and residual > claim.tolerance
        case "approximate":
            return bool(inside is not False) and residual > claim.bound
        case _:
            return False


def _sentence(claim: Any, broken: list[str], inside: bool | None, exceeds: bool) -> str:
    """Say in words what an instance does to a claim."""
    if broken:
        what = "the check fails, as a negative control should" if exceeds else "the check passes all the same"
        return f"outside the claim, which supposes that {'; '.join(broken)}: {what}"
    if not exceeds:
        return "the instance does not violate the claim"
    if inside is None:
        return "the instance violates the claim"
    where = "even where" if inside else "and does not meet its condition, that"
    return f"the instance violates the claim as printed, {where} {claim.condition[0]}"


def _text(claim: Any, document: Mapping[str, Any]) -> str:
    """Lay out what was found, for a person to read."""
    lines = [f"{claim.name}: {claim.statement}", f"  source       {claim.source}"]
    lines += [
        f"  assumption   {'broken' if words in document['broken'] else 'met'}: {words}" for words in claim.assumptions
    ]
    if claim.condition is not None:
        lines.append(f"  condition    {'met' if document['meets_condition'] else 'not met'}: {claim.condition[0]}")
    lines.append(f"  residual     {document['residual']:.4g}, tolerance {claim.tolerance:.4g}")
    return "\n".join([*lines, f"{document['sentence'][0].upper()}{document['sentence'][1:]}."])


# --- reading ----------------------------------------------------------------------------------------------


def read_instance(path: Path) -> tuple[Any, Instance]:
    """Return the claim of a file, and its instance.

    Raises:
        BadDataError: if there is no such file, or it holds no instance of a claim.
    """
    from didsim.claims import CLAIMS

    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("claim"), str):
        raise BadDataError(f'{path} must hold {{"claim": NAME, "instance": {{...}}}}; the name of a claim is missing.')
    name, instance = content["claim"], content.get("instance")
    if name not in CLAIMS:
        hint = did_you_mean(name, CLAIMS)
        raise BadDataError(f"{path} names the claim {name!r}, which is unknown. {hint}".strip() + _SEE)
    if not isinstance(instance, dict):
        raise BadDataError(f'{path} must hold {{"claim": NAME, "instance": {{...}}}}; its instance is no such object.')
    if faults := _faults(CLAIMS[name], instance):
        raise BadDataError(f"{path} holds no instance of {name}: {'; '.join(faults)}.")
    return CLAIMS[name], instance


_SEE = " See `didsim list claims`."


def _read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadDataError(f"{path} has more than {LARGEST_FILE} bytes: it is no instance of a claim.")
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadDataError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadDataError(f"{path} is not JSON: {error}.") from error


def _faults(claim: Any, instance: Instance) -> list[str]:
    """Say what an instance lacks, has too much, or has of a wrong kind; nothing if it can be evaluated."""
    examples = [claim.control.instance, *([] if claim.counterexample is None else [claim.counterexample])]
    known = {*claim.fields}.union(*examples)
    missing = [name for name in claim.fields if name not in instance and all(name in e for e in examples)]
    unknown = [name for name in instance if name not in known]
    faults = [f"{name} is missing" for name in missing]
    faults += [f"{name!r} is no field of it, which are {', '.join(sorted(known))}" for name in unknown]
    for name in [name for name in instance if name in known]:
        faults += _faults_of_value(claim, name, instance, [e[name] for e in examples if name in e])
    return faults


def _faults_of_value(claim: Any, name: str, instance: Instance, examples: list[Any]) -> list[str]:
    """Say what is wrong with one value, of which some examples are known to be right."""
    import numpy as np

    value, field = instance[name], claim.fields.get(name)
    if field is None:
        accepted = _kind(examples[0])
        return [] if _is_kind(value, examples[0]) else [f"{name} must be {accepted}; got {_short(value)}"]
    example = field.draw(np.random.default_rng(0), (1,) * len(field.sizes), 1.0)
    if not _is_kind(value, example):
        return [f"{name} must be {_kind(example)}; got {_short(value)}"]
    shape = [instance[size] for size in field.sizes if isinstance(instance.get(size), int)]
    if field.sizes and _shape(value) != shape:
        return [f"{name} must have the shape {shape} of {', '.join(field.sizes)}; it has {_shape(value)}"]
    return (
        []
        if value in examples or _is_in_range(field, value, tuple(shape))
        else [f"{name} is out of its range; got {_short(value)}"]
    )


def _is_kind(value: Any, example: Any) -> bool:
    """Return whether a value is of the same JSON type as an example; lists may have other lengths."""
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, list):
        return isinstance(value, list) and all(_is_kind(item, e) for item in value for e in example[:1])
    if isinstance(example, float):
        return isinstance(value, int | float) and abs(value) < math.inf
    return type(value) is type(example)


def _kind(example: Any) -> str:
    """Name the JSON type of an example."""
    kinds = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a string", list: "a list"}
    if isinstance(example, list) and example:
        return f"a list, each entry {_kind(example[0])}"
    return kinds.get(type(example), "null")


def _shape(value: Any) -> list[int] | None:
    """Return the shape of nested lists, or None if they have none."""
    if not isinstance(value, list):
        return []
    shapes = [_shape(item) for item in value]
    if any(shape is None or shape != shapes[0] for shape in shapes):
        return None
    return [len(value), *(shapes[0] or [])] if shapes else [0]


def _is_in_range(field: Any, value: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a value is one that the numbers of its field stand for: probabilities add up to 1, for example."""
    import numpy as np

    with np.errstate(all="ignore"):
        numbers = field.numbers(value)
        return len(numbers) == 0 or bool(np.allclose(field.value(numbers, shape), value, rtol=1e-6))


def _short(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
