"""What `didsim solve` tells of solutions: as a document, as text, and as the numbers of a picture."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from didsim._terminal import table
from didsim.identification import identify
from didsim.info import entropy, js, kl
from didsim.optima import CLOSED_FORMS, MI_DPO_FORMS, NO_CLOSED_FORM, OF_MARGINS, as_if_independent, closed_form
from didsim.preference import PreferenceDataset, Problem
from didsim.spaces import Sequences
from didsim.stationary import Solution

LABELS = {"reference": "π_ref", "target": "π*", "rejected": "π_l", "did": "q", "stationary": "π", "prior": "ζ"}

DISTANCES = {
    "js_target": "JS(π*‖π)",
    "js_did": "JS(q‖π)",
    "kl_target_policy": "KL(π*‖π)",
    "kl_policy_target": "KL(π‖π*)",
    "kl_policy_reference": "KL(π‖π_ref)",
    "entropy_policy": "H(π)",
    "entropy_did": "H(q)",
}

GRID_COLUMNS = ("js_target", "js_did", "kl_policy_reference", "residual")

MOST_ROWS, MOST_PROMPTS, DRAWN_PROMPTS = 12, 3, 4
"""How many rows and prompts a table shows unless all are asked for, and how many prompts a picture."""


# --- one solution -----------------------------------------------------------------------------------------


def policies(solution: Solution) -> dict[str, np.ndarray]:
    """Return the probabilities [X, K] of what is looked at, by name; without the stationary policy if there is none."""
    problem = solution.problem
    shown = {name: getattr(problem, name) for name in ("reference", "target", "rejected", "did")}
    shown |= {"stationary": solution.policy, "prior": solution.prior}
    shape = (problem.num_prompts, problem.num_classes)
    return {name: np.broadcast_to(policy.probs, shape) for name, policy in shown.items() if policy is not None}


def distances(solution: Solution) -> dict[str, float | None]:
    """Return how far the policy is from others, in nats, means over prompts by their weights; None without a policy."""
    problem, policy = solution.problem, solution.policy
    told: dict[str, float | None] = dict.fromkeys(DISTANCES)
    told["entropy_did"] = _mean(problem, entropy(problem.did))
    if policy is None:
        return told
    return told | {
        "js_target": _mean(problem, js(problem.target, policy)),
        "js_did": _mean(problem, js(problem.did, policy)),
        "kl_target_policy": _mean(problem, kl(problem.target, policy)),
        "kl_policy_target": _mean(problem, kl(policy, problem.target)),
        "kl_policy_reference": _mean(problem, kl(policy, problem.reference)),
        "entropy_policy": _mean(problem, entropy(policy)),
    }


def _mean(problem: Problem, by_prompt: np.ndarray) -> float:
    return float(np.atleast_1d(by_prompt) @ problem.prompt_weights)


def certificate(solution: Solution) -> dict[str, Any]:
    """Return what vouches for a solution."""
    excluded = np.isneginf(np.atleast_2d(solution.problem.reference.log_probs))
    return {
        "status": solution.status,
        "residual": solution.residual,
        "newton_step": solution.newton_step,
        "iterations": solution.iterations,
        "smallest_eigenvalue": solution.eigenvalue,
        "starts": solution.starts,
        "basin": solution.basin,
        "other_solutions": len(solution.others),
        "continuum": solution.continuum,
        "kinks": solution.corners.tolist(),
        "died_out": np.argwhere(~np.atleast_2d(solution.survivors) & ~excluded).tolist(),
    }


def known_form(solution: Solution) -> dict[str, Any] | None:
    """Return the closed form of the population's stationary policy, with its distance from the solver's policy."""
    loss = solution.loss
    form, why = CLOSED_FORMS.get(loss.name), NO_CLOSED_FORM.get(loss.name, "None is known.")
    if loss.name == "mi_dpo":
        form = MI_DPO_FORMS.get(loss.hyperparameters["prior"])
    if solution.problem.features is not None:
        form, why = None, "The policy is restricted to a log-linear class."
    elif as_if_independent(solution.problem, loss.name) is None:
        why = "Both responses are drawn together, by a law for which none is known."
    if form is None:
        return {"formula": None, "difference": None, "note": why}
    try:
        policy = closed_form(solution.problem, loss)
    except ValueError as error:
        return {"formula": form.formula, "difference": None, "note": str(error)}
    if policy is None:
        return {"formula": None, "difference": None, "note": why}
    note = JOINTLY if solution.problem.pairs is not None and loss.name not in OF_MARGINS else None
    difference = None if solution.policy is None else _difference(policy.log_probs, solution.policy.log_probs)
    return {"formula": form.formula, "difference": difference, "note": note}


JOINTLY = "Both responses are drawn together: w/l stands for e^v, where p*(i ≻ j) = σ(v_i − v_j)."


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of log-probabilities; where both are −inf there is none."""
    apart = np.abs(np.subtract(one, other, out=np.zeros(one.shape), where=one != other))
    return float(apart.max())


def pairs_of(problem: Problem, world: dict[str, Any], drawn: PreferenceDataset | None) -> PreferenceDataset | None:
    """Return the pairs that a solution is for, or None for a population.

    A world of finitely many pairs is a law of pairs; which responses ever won against which is all that `identify`
    looks at, so that each win stands here once.
    """
    if drawn is not None or "num_pairs" not in world:
        return drawn
    prompts, chosen, rejected = np.nonzero(problem.pair_probs())
    return PreferenceDataset(chosen, rejected, prompts)


def document(solution: Solution, dataset: PreferenceDataset | None) -> dict[str, Any]:
    """Return all that was found, as a document; the dataset as `pairs_of` names it."""
    told = {
        "hyperparameters": dict(solution.loss.hyperparameters),
        "sentence": solution.sentence,
        "certificate": certificate(solution),
        "distances": distances(solution),
        "closed_form": known_form(solution) if dataset is None else None,
        "identification": None,
        "responses": responses(solution),
        "other_policies": [np.atleast_2d(other.probs).tolist() for other in solution.others],
    }
    if dataset is not None:
        found = identify(dataset, solution.problem.num_classes, solution.problem.num_prompts)
        told["identification"] = {"status": found.status, "sentence": found.sentence}
    return told


def responses(solution: Solution) -> list[dict[str, Any]]:
    """Return one row for each prompt and response, the likeliest under π_ref first."""
    problem, shown = solution.problem, policies(solution)
    rows = []
    for prompt, order in enumerate(_orders(problem)):
        asked = None if problem.prompts is None else prompt
        for response in order.tolist():
            numbers = {name: float(probs[prompt, response]) for name, probs in shown.items()}
            absent = {} if "stationary" in shown else {"stationary": None}
            rows.append({"prompt": asked, "response": response, **_tokens(problem, response), **numbers, **absent})
    return rows


def _orders(problem: Problem) -> np.ndarray:
    """Return the responses of each prompt by their probability under π_ref, [X, K]."""
    return np.argsort(-np.atleast_2d(problem.reference.log_probs), axis=1, kind="stable")


def _tokens(problem: Problem, response: int) -> dict[str, list[int]]:
    return {"tokens": list(problem.space.tokens(response))} if isinstance(problem.space, Sequences) else {}


def without_infinities(value: Any) -> Any:
    """Put None in place of what is no finite number: JSON has no word for it."""
    if isinstance(value, Mapping):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- text -------------------------------------------------------------------------------------------------


def text(told: dict[str, Any], solution: Solution, everything: bool) -> str:
    """Return all that was found, for a person to read; `told` is the document of the command."""
    head = f"{solution.loss!r} on {_place(told['world'], solution.problem)}, for {_data(told)}\n{solution.sentence}"
    blocks = [head, _certificate_table(told)]
    if solution.policy is not None:
        rows = [[DISTANCES[name], value] for name, value in told["distances"].items()]
        means = ", means over prompts" if solution.problem.num_prompts > 1 else ""
        blocks = [head, _response_table(solution, told["responses"], everything), table([f"nats{means}", ""], rows)]
        blocks.append(_certificate_table(told))
    return "\n\n".join(blocks)


def _place(world: dict[str, Any], problem: Problem) -> str:
    count = problem.num_prompts
    prompts = "" if problem.prompts is None else f", {count} prompt{'s' if count > 1 else ''}"
    name = f"τ = {world['tau']:g}" if world["name"] == "did" else f"world {world['name']}"
    return f"{world['space']}{prompts}, {name}"


def _data(told: dict[str, Any]) -> str:
    if told["pairs"] is not None:
        return f"{told['pairs']} drawn pairs"
    return f"{told['world']['num_pairs']} pairs" if "num_pairs" in told["world"] else "the population"


def _response_table(solution: Solution, rows: list[dict[str, Any]], everything: bool) -> str:
    problem = solution.problem
    prompts = min(problem.num_prompts, MOST_PROMPTS)
    each = MOST_ROWS // prompts
    if everything or problem.num_prompts * problem.num_classes <= MOST_ROWS:
        prompts, each = problem.num_prompts, problem.num_classes
    size = problem.num_classes
    shown = [row for prompt in range(prompts) for row in rows[prompt * size : prompt * size + each]]
    names = [name for name in LABELS if name in rows[0]]
    keys = [*(["prompt"] if problem.prompts is not None else []), "response"]
    cells = [[*(row[key] for key in keys), *_token_cell(row), *(row[name] for name in names)] for row in shown]
    heads = [*keys, *(["tokens"] if "tokens" in rows[0] else []), *(LABELS[name] for name in names)]
    laid_out = table(heads, cells)
    if len(shown) == len(rows):
        return laid_out
    return f"{laid_out}\n… {len(rows) - len(shown)} more rows; -v shows all, by their probability under π_ref"


def _token_cell(row: dict[str, Any]) -> list[str]:
    return [" ".join(map(str, row["tokens"])) or "(none)"] if "tokens" in row else []


def _certificate_table(told: dict[str, Any]) -> str:
    found = told["certificate"]
    eigenvalue = found["smallest_eigenvalue"]
    rows: list[list[object]] = [
        ["status", found["status"]],
        ["residual", f"{found['residual']:.1e} of the mass of pairs"],
        [
            "Newton step",
            f"{found['newton_step']:.1e} nats" if math.isfinite(found["newton_step"]) else "does not exist",
        ],
        ["iterations", found["iterations"]],
        ["smallest eigenvalue", "not computed" if eigenvalue is None else f"{eigenvalue:.3g}"],
        ["starts", _starts_in_words(found)],
    ]
    if found["continuum"]:
        dimensions = found["continuum"]
        rows.append(["not isolated", f"a set of {dimensions} dimension{'s' if dimensions > 1 else ''}"])
    if found["kinks"]:
        rows.append(["kinks or jumps", len(found["kinks"])])
    rows += _form_rows(told["closed_form"])
    if told["identification"]:
        rows.append(["likelihood", f"{told['identification']['status']}: {told['identification']['sentence']}"])
    return table(["certificate", ""], rows)


def _starts_in_words(found: dict[str, Any]) -> str:
    if found["continuum"]:
        return f"{found['starts']}; each may lead to another one of the set"
    others = found["other_solutions"]
    tail = f"; {others} other solution{'s' if others > 1 else ''}" if others else ""
    return f"{found['basin'] * found['starts']:.0f} of {found['starts']} led here{tail}"


def _form_rows(form: dict[str, Any] | None) -> list[list[object]]:
    if form is None:
        return []
    if form["formula"] is None:
        return [["closed form", f"none: {form['note']}"]]
    rows: list[list[object]] = [["closed form", form["formula"]]]
    if form["note"]:
        rows.append(["", form["note"]])
    if form["difference"] is not None:
        rows.append(["largest difference", f"{form['difference']:.1e} in log π"])
    return rows


# --- grids ------------------------------------------------------------------------------------------------


def grid_rows(
    axes: Sequence[str], points: Iterable[dict[str, Any]], solutions: Iterable[Solution]
) -> list[dict[str, Any]]:
    """Return one row for each combination of a grid."""
    rows = []
    for point, solution in zip(points, solutions, strict=True):
        rows.append(
            {
                "values": {name: point.get(name) for name in axes},
                "hyperparameters": dict(solution.loss.hyperparameters),
                **certificate(solution),
                **distances(solution),
                "sentence": solution.sentence,
            }
        )
    return rows


def grid_text(axes: Sequence[str], rows: list[dict[str, Any]]) -> str:
    """Return a table with a line for each combination."""
    heads = [*axes, "status", *(DISTANCES.get(name, name) for name in GRID_COLUMNS)]
    cells = [
        [*(_cell(row["values"][name]) for name in axes), row["status"], *(_cell(row[name]) for name in GRID_COLUMNS)]
        for row in rows
    ]
    loose = sum(row["continuum"] > 0 for row in rows)
    note = f"\n{loose} are not isolated: their policy is one of a continuum." if loose else ""
    return f"{table(heads, cells)}\ndistances in nats{note}"


def _cell(value: object) -> object:
    return "-" if value is None else value


def grid_frame(name: str, axes: Sequence[str], rows: list[dict[str, Any]], tau_is_its_own: bool) -> pd.DataFrame:
    """Return the numbers of the picture of a grid: the first axis goes along, the others tell lines apart."""
    first, others = axes[0], axes[1:]
    values = [row["values"][first] for row in rows]
    words = list(dict.fromkeys(map(str, values)))
    numeric = all(isinstance(value, float) for value in values)
    label = first if first != "tau" or tau_is_its_own else "temperature of the target, τ"
    return pd.DataFrame(
        {
            "objective": name,
            "axis": label,
            "x": [value if numeric else float(words.index(str(value))) for value in values],
            "tick": [f"{value:g}" if numeric else str(value) for value in values],
            "series": [_line_name(others, row["values"]) for row in rows],
            "status": [row["status"] for row in rows],
            "continuum": [row["continuum"] for row in rows],
            **{column: ["" if row[column] is None else row[column] for row in rows] for column in GRID_COLUMNS},
        }
    )


def _line_name(names: Sequence[str], values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_word(values[name])}" for name in names if values[name] is not None)


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- the numbers of a picture -----------------------------------------------------------------------------


def frame(solution: Solution) -> pd.DataFrame:
    """Return the numbers of the picture of one solution: probabilities by rank, and JS of each prompt."""
    problem, shown = solution.problem, policies(solution)
    shown.pop("prior", None)
    parts = []
    for prompt, order in enumerate(_orders(problem)[:DRAWN_PROMPTS]):
        panel = "" if problem.prompts is None else f"prompt {prompt}"
        ranks = {"quantity": "probability", "x": np.arange(1, len(order) + 1), "response": order}
        parts += [
            pd.DataFrame({"panel": panel, "series": name, **ranks, "value": probs[prompt, order]})
            for name, probs in shown.items()
        ]
        if solution.policy is not None:
            apart = float(js(problem.target, solution.policy).reshape(-1)[prompt])
            row = {"panel": panel, "series": "stationary", "quantity": "js_target", "x": 0, "response": -1}
            parts.append(pd.DataFrame([{**row, "value": apart}]))
    facts = {"objective": solution.loss.name, "hyperparameters": _given(solution), "status": solution.status}
    return pd.concat(parts, ignore_index=True).assign(**facts, continuum=solution.continuum)


def _given(solution: Solution) -> str:
    """Name the hyperparameters: numbers, and options that are not left at their defaults."""
    parameters = solution.loss.objective.parameters
    return ", ".join(
        f"{name} {_word(value)}"
        for name, value in solution.loss.hyperparameters.items()
        if not parameters[name].is_option or value != parameters[name].default
    )
