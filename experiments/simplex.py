"""Where every objective pulls a policy of three responses: fields and training on the simplex."""

import numpy as np
import pandas as pd

from didsim import Policy, Problem, objective, train_many
from didsim.experiment import Spec, is_isolated, mean_bands, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import OKABE_ITO, objective_look
from didsim.stationary import solve_many

SPEC = Spec(
    id="simplex",
    title="The field of every objective over policies of three responses",
    source="ours",
    caption=(
        "Policies of three responses, one triangle for each objective at its defaults, in the DID construction of "
        "π_ref = (0.55, 0.3, 0.15), the dot, and π* = (0.25, 0.2, 0.55), the star. Arrows: the direction of exact "
        "gradient descent on the population loss, by logits. Lines: sampled training from π_ref and from a policy near "
        "each of corners 2 and 3, 40 steps of gradient descent on batches of 512 pairs, of one length while gradients "
        "are not small, their rate falling to 0. Ring: the stationary policy, or the limit on the boundary, that the "
        "solver finds from π_ref; β-DPO has none and DPO-PG no isolated one. DPO, R-DPO, f-DPO and MI-DPO are one "
        "here, and recover π*. A smaller default β reaches farther: most token-level objectives, at β = 0.1, go to a "
        "corner on the same pairs, and 40 steps do not bring them there. χPO clips, and does not move from far away. "
        "DiscoPOP leaves π_ref for one minimum or the other, and the path that is drawn is a mean of both kinds. CPO, "
        "ORPO, DPOP and SPPO stay near π_ref. KTO, the APO pair and SimPER exclude responses. Means of paths over "
        "seeds; bands 95% bootstrap intervals of the mean are in the CSV; arrows and rings know no chance."
    ),
    alt=(
        "44 triangles with arrows and three paths each. For DPO all paths meet at the star; for others they meet "
        "elsewhere inside, near the dot, in the upper corner, or do not meet."
    ),
    axes={"part": ("field", "from π_ref", "from 2", "from 3")},
    batch={"seed": seeds(20), "objective": tuple(IMPLEMENTATIONS)},
    constants={"steps": 40, "points": 7},
    quick={"seed": seeds(3), "objective": ("dpo", "simpo", "kto", "cal_dpo", "dpo_pg"), "steps": 20},
    panels=(8, 6),
    size=(7.2, 9.4),
    headline="js_target",
    minutes=0.1,
)

_REFERENCE, _TARGET = (0.55, 0.3, 0.15), (0.25, 0.2, 0.55)

_STARTS = {
    "from π_ref": _REFERENCE,
    "from 2": (0.1, 0.8, 0.1),
    "from 3": (0.05, 0.05, 0.9),
}


def run_cell(params):
    """Compute the fields of all objectives and solve for where they vanish, or train all from one start."""
    problem = Problem.from_policies(_REFERENCE, _TARGET)
    jobs = [(problem, objective(name)) for name in params["objective"]]
    if params["part"] == "field":
        certain = _fields(jobs, params["points"]) + _ends(jobs)
        rows = [(*row, seed) for seed in params["seed"] for row in certain]
    else:
        rows = _paths(jobs, params)
    return pd.DataFrame(rows, columns=["panel", "series", "quantity", "x", "value", "seed"])


def _fields(jobs, points):
    """Return where a small step of exact gradient descent leads, on a grid of policies: it knows no chance."""
    rows = []
    settings = {"mode": "population", "optimiser": "sgd", "clip": 1e-4, "learning_rate": 1.0, "dtype": "float64"}
    inside = [(i, j, points - i - j) for i in range(1, points) for j in range(1, points - i)]
    for number, start in enumerate(Policy.from_probs(np.array(one) / points) for one in inside):
        histories = train_many(jobs, steps=1, initial_policy=start, metrics=(), keep_policies=True, **settings)
        for (_, loss), history in zip(jobs, histories, strict=True):
            assert history.policies is not None  # they are kept
            before, after = history.policies.probs
            values = {**dict(_read(before)), **dict(_read(after - before, "d"))}
            rows += [(loss.name, "field", quantity, number, float(value)) for quantity, value in values.items()]
    return rows


def _ends(jobs):
    """Return where each objective is stationary, as far as that is one policy."""
    rows = []
    for (_, loss), solution in zip(jobs, solve_many(jobs, starts=1), strict=True):
        if is_isolated(solution) and solution.policy is not None:
            rows += [(loss.name, "end", q, 0, float(p)) for q, p in _read(solution.policy.probs)]
    return rows


def _paths(jobs, params):
    """Train every objective from one start with every seed; steps are of one length while gradients are not small."""
    seeded = [(job, seed) for seed in params["seed"] for job in jobs]
    histories = train_many(
        [job for job, _ in seeded],
        seed=[seed for _, seed in seeded],
        steps=params["steps"],
        record_every=2,
        optimiser="sgd",
        learning_rate=6.0,
        clip=0.06,
        schedule="linear",
        initial_policy=Policy.from_probs(_STARTS[params["part"]]),
        metrics=("js_target",),
        keep_policies=True,
    )
    rows = []
    for ((_, loss), seed), history in zip(seeded, histories, strict=True):
        assert history.policies is not None  # they are kept
        for step, policy in zip(history.steps.tolist(), history.policies.probs, strict=True):
            rows += [(loss.name, params["part"], quantity, step, float(p), seed) for quantity, p in _read(policy)]
        rows.append(
            (
                loss.name,
                params["part"],
                "js_target",
                int(history.steps[-1]),
                float(history.metrics["js_target"][-1]),
                seed,
            )
        )
    return rows


def _read(vector, letter="p"):
    """Return two coordinates of three, with their names; the last one follows from them."""
    return [(f"{letter}1", vector[0]), (f"{letter}2", vector[1])]


def summarise(df):
    """Average over seeds; the field and the stationary policies are the same for all of them."""
    points = mean_bands(df, ["panel", "series", "quantity", "x"], "value")
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])

_PATHS = {
    "from π_ref": (OKABE_ITO[5], r"from $\pi_{\mathrm{ref}}$"),
    "from 2": (OKABE_ITO[6], "from near 2"),
    "from 3": (OKABE_ITO[3], "from near 3"),
}


def draw(df, axes):
    """Draw a triangle for each objective."""
    panels = list(df.groupby("panel", sort=False))
    for axis, (name, rows) in zip(axes.flat, panels, strict=False):
        axis.set_title(objective_look(str(name))[2], pad=2.0)
        _draw_triangle(axis, rows)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for number, (corner, aside) in enumerate(zip(_CORNERS, ((-6, 0), (3, 0), (3, -3)), strict=True), start=1):
        axes.flat[0].annotate(f"{number}", corner, aside, textcoords="offset points")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _draw_triangle(axis, rows):
    """Draw field, paths and marks of one objective."""
    axis.set_axis_off()
    axis.set_aspect("equal")
    axis.set(xlim=(-0.08, 1.08), ylim=(-0.1, 0.96))
    axis.fill(*_CORNERS.T, facecolor="none", edgecolor="0.4", linewidth=0.6)
    where, moves = (_table(rows, "field", letter) for letter in "pd")
    lengths = np.linalg.norm(moves, axis=1, keepdims=True)
    moves = np.divide(moves, lengths, out=np.zeros_like(moves), where=lengths > 1e-12)
    axis.quiver(*where.T, *moves.T, color="0.6", scale=11.0, width=0.008, pivot="mid")
    for name, (colour, label) in _PATHS.items():
        axis.plot(*_table(rows, name).T, color=colour, linewidth=1.0, label=label)
    for policy, marker, label in ((_REFERENCE, "o", r"$\pi_{\mathrm{ref}}$"), (_TARGET, "*", "π*")):
        axis.plot(*(np.array(policy) @ _CORNERS), marker, color="black", markersize=4.0, linestyle="", label=label)
    look = {"markerfacecolor": "none", "color": OKABE_ITO[7], "markersize": 6.5, "linestyle": ""}
    axis.plot(*_table(rows, "end").T, "o", label="stationary", **look)


def _table(rows, series, letter="p"):
    """Return the places, or the moves, of one series on the page, one row for each x."""
    table = rows[rows["series"] == series].pivot_table(index="x", columns="quantity", values="mean")
    if table.empty:
        return np.empty((0, 2))
    first, second = (table[f"{letter}{number}"].to_numpy() for number in (1, 2))
    third = float(letter == "p") - first - second
    return np.stack([first, second, third], axis=1) @ _CORNERS
