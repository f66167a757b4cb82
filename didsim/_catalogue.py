"""What the commands `list` and `objective` print: the registered things, as rows of a document and as tables."""

from collections.abc import Callable
from dataclasses import asdict
from textwrap import fill, indent
from typing import Any

from didsim._terminal import flag, screen_width, table

Rows = list[dict[str, object]]


def _listed(heads: list[str], rows: list[list[object]]) -> tuple[Rows, str]:
    """Return a list as the rows of a document, and as a table."""
    return [dict(zip(heads, row, strict=True)) for row in rows], table(heads, rows, screen_width())


def _list_figures() -> tuple[Rows, str]:
    from didsim.experiment import known_experiments, load_experiment

    known = known_experiments()
    specs = [load_experiment(name).spec for name in known]
    rows: list[list[object]] = [[spec.id, spec.title, spec.source, spec.minutes] for spec in specs]
    listed, text = _listed(["name", "shows", "counterpart of", "minutes"], rows)
    return listed, f"{text}\ntheir files: {next(iter(known.values())).parent}"


def _list_claims() -> tuple[Rows, str]:
    from didsim import CLAIMS

    rows: list[list[object]] = [[c.name, c.source, c.verdict, c.statement] for c in CLAIMS.values()]
    return _listed(["name", "source", "recorded verdict", "statement"], rows)


def _list_objectives() -> tuple[Rows, str]:
    from didsim import OBJECTIVES

    rows = [
        {
            "name": record.name,
            "title": record.title,
            "loss per pair": record.formula,
            "needs": sorted(record.bind().needs),
            "group": _group(record),
            "hyperparameters": list(record.parameters),
        }
        for record in OBJECTIVES.values()
    ]
    heads = ["name", "title", "loss per pair", "hyperparameters"]
    blocks = []
    for group in GROUPS:
        members = [row for row in rows if row["group"] == group]
        if members:
            cells = [[*(row[head] for head in heads[:3]), " ".join(row["hyperparameters"])] for row in members]
            blocks.append(f"{group}: {GROUPS[group]}\n{table(heads, cells, screen_width())}")
    blocks.append(OUTER_LOOPS)
    return rows, "\n\n".join(blocks)


OUTER_LOOPS = """outer loop: any of these in rounds, each with the last policy as its reference
dice  Bootstrapping with DPO's implicit reward  didsim train dpo --rounds 3, or didsim.dice"""

GROUPS = {
    "log π only": "log π of both responses",
    "reference": "log π_ref too",
    "length": "the number of tokens too",
    "reference and length": "both",
    "tokens": "log π and log π_ref of each token",
    "next-token distributions": "sums over all tokens that could have been chosen",
    "batch statistics": "means, deviations or ranks over the batch, or the population",
    "mean KL": "KL(π ‖ π_ref) averaged over prompts",
    "prompts": "log π(y) without the prompt",
    "gradient rule": "a rule for gradients, not a loss",
    "registered by you": "by you, or by an installed package",
}
"""What an objective needs under its defaults, in the order of the list."""

_DECISIVE = {
    "vocabulary": "next-token distributions",
    "tokens": "tokens",
    "batch": "batch statistics",
    "marginal": "prompts",
    "mean_kl": "mean KL",
}
"""The needs that decide on a group whatever else is needed, the first that applies."""

_PER_RESPONSE = {
    frozenset(): "log π only",
    frozenset({"reference"}): "reference",
    frozenset({"length"}): "length",
    frozenset({"reference", "length"}): "reference and length",
}


def _group(record: Any) -> str:
    """Return the group of an objective; didsim's own are those whose implementations elsewhere were looked for."""
    from didsim.objectives import IMPLEMENTATIONS

    needs = record.bind().needs
    if record.name not in IMPLEMENTATIONS:
        return "registered by you"
    if record.gradient_rule is not None:
        return "gradient rule"
    return next((group for need, group in _DECISIVE.items() if need in needs), None) or _PER_RESPONSE[needs]


def _list_priors() -> tuple[Rows, str]:
    from didsim import PRIORS

    rows: list[list[object]] = [[p.name, p.formula, p.recovers, " ".join(sorted(p.needs))] for p in PRIORS.values()]
    return _listed(["name", "ζ(y)", "recovers", "needs"], rows)


def _list_metrics() -> tuple[Rows, str]:
    from didsim import METRICS

    return _listed(["name"], [[name] for name in METRICS])


def _list_worlds() -> tuple[Rows, str]:
    from didsim import WORLDS

    rows: Rows = [
        {
            "name": world.name,
            "is": world.title,
            "description": world.description,
            "source": world.source,
            "options": dict(world.options),
        }
        for world in WORLDS.values()
    ]
    if flag("verbose"):
        return rows, "\n\n".join(_described(world) for world in WORLDS.values())
    heads = ["name", "is", "source"]
    return rows, table(heads, [[row[head] for head in heads] for row in rows], screen_width())


def _list_lessons() -> tuple[Rows, str]:
    from didsim.lessons import LESSONS

    rows: list[list[object]] = [[x.slug, x.number, x.minutes, x.title] for x in LESSONS.values()]
    return _listed(["name", "lesson", "minutes", "title"], rows)


def _described(world: Any) -> str:
    width = (screen_width() or 100) - 2
    given = ", ".join(name if value is None else f"{name}={value}" for name, value in world.options.items())
    texts = (world.description, f"Options: {given}.", f"Source: {world.source}.")
    return "\n".join([f"{world.name}: {world.title}", *(indent(fill(text, width), "  ") for text in texts)])


LISTS: dict[str, Callable[[], tuple[Rows, str]]] = {
    "figures": _list_figures,
    "claims": _list_claims,
    "objectives": _list_objectives,
    "priors": _list_priors,
    "metrics": _list_metrics,
    "worlds": _list_worlds,
    "lessons": _list_lessons,
}
"""What can be listed: each as rows and as text."""


NOTATION = (
    "S(z) = −log σ(z);  h = log π − log π_ref;  D = h_w − h_l;  a = log π / |y|;  w chosen, l rejected;  "
    "|y| tokens;  nats."
)
"""How formulas of losses are to be read."""


def explain(record: Any) -> tuple[dict[str, Any], str]:
    """Return all that is known of an objective, as a document and as text."""
    from didsim.objectives import IMPLEMENTATIONS

    document = {
        "name": record.name,
        "title": record.title,
        "formula": record.formula,
        "source": record.source,
        "needs": sorted(record.bind().needs),
        "option_needs": [
            {"option": option, "value": value, "needs": sorted(needs)}
            for (option, value), needs in record.option_needs.items()
        ],
        "parameters": [_parameter(key, parameter) for key, parameter in record.parameters.items()],
        "conventions": list(record.conventions),
        "implementations": [asdict(row) for row in IMPLEMENTATIONS.get(record.name, ())],
    }
    lines = [
        f"{record.name}: {record.title}",
        f"  loss per pair   {record.formula}",
        f"  source          {record.source}",
        f"  needs           {' '.join(document['needs']) or 'nothing but log π'}",
        *(f"  with an option  {text}" for text in _needs_of_options(record)),
        *(f"  convention      {text}" for text in record.conventions),
        "",
        _parameter_table(document["parameters"]),
        "",
        _implementation_table(document["implementations"], own=record.name in IMPLEMENTATIONS),
        "",
        NOTATION,
    ]
    return document, "\n".join(lines)


def _parameter(name: str, parameter: Any) -> dict[str, Any]:
    """Return a hyperparameter as a part of a document."""
    domain = parameter.domain
    if isinstance(domain, tuple):
        truth_values = all(isinstance(choice, bool) for choice in domain)
        domain = "True or False" if truth_values else ", ".join(map(str, domain))
    when = parameter.when and {"option": parameter.when[0], "values": list(parameter.when[1])}
    return {
        "name": name,
        "default": parameter.default,
        "domain": str(domain),
        "grid": list(parameter.grid),
        "meaning": parameter.meaning,
        "when": when,
    }


def _parameter_table(parameters: list[dict[str, Any]]) -> str:
    if not parameters:
        return "It has no hyperparameters."
    heads = ["hyperparameter", "default", "domain", "grid", "meaning"]
    rows = [[p["name"], p["default"], p["domain"], " ".join(map(str, p["grid"])), p["meaning"]] for p in parameters]
    if any(p["when"] for p in parameters):
        heads.append("read only with")
        for row, p in zip(rows, parameters, strict=True):
            row.append(f"{p['when']['option']}={_either(p['when']['values'])}" if p["when"] else "")
    return table(heads, rows, screen_width())


def _needs_of_options(record: Any) -> list[str]:
    """Say which values of options need what, values of the same needs together."""
    values: dict[tuple[str, frozenset[str]], list[object]] = {}
    for (option, value), needs in record.option_needs.items():
        if needs:
            values.setdefault((option, needs), []).append(value)
    return [f"{option}={_either(these)}: {' '.join(sorted(needs))}" for (option, needs), these in values.items()]


def _either(values: list[object]) -> str:
    """Join values as in "a, b or c"."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _implementation_table(implementations: list[dict[str, Any]], own: bool) -> str:
    """Lay out what libraries compute; didsim's `own` objectives are those that were looked for."""
    if not own:
        return "It is registered by you, or by an installed package: no other library was looked at."
    if not implementations:
        return "No public implementation was found."
    verdicts = {True: "same", False: "differs", None: "not looked at"}
    rows = [[row["library"], row["name"], verdicts[row["same"]], row["computes"]] for row in implementations]
    heads = ["library", "its name there", "formula", "what it computes"]
    return f"{table(heads, rows, screen_width())}\nWhere each was read: --json."
