"""Tables 3, 5, 7, 8 and Figure 8 of the RMiPO paper: where each variant of its margin ends, exactly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from didsim import OBJECTIVES, Pairs, objective, pmi
from didsim.experiment import Spec, mean_bands, mean_js, seeds
from didsim.objectives import Objective
from didsim.plotting import OKABE_ITO, objective_look
from didsim.stationary import solve_many
from didsim.torch_bridge import to_array, to_tensor
from didsim.worlds import boilerplate, distinct_pairs, length_bias, win_rate

SPEC = Spec(
    id="rmipo_table3",
    title="RMiPO's margin taken apart: ablation, schedules, bounds, lengths, and the margins it ends with",
    source="RMiPO paper, Tables 3, 5, 7, 8, Fig. 8",
    caption=(
        "Where the variants of RMiPO end, solved for exactly at β = 2, less where RMiPO ends (γ from 0.3 to 1.6): "
        "in JS(π*‖π), and in how often a response is preferred to one of π_ref. Four prompts share two popular "
        "responses of eight (world boilerplate). The paper does not define the rows of Table 3. Ours: GM, γ is 1.6; "
        "MI, γ falls linearly in Δpmi from 1 to 0; GM + MI, between the bounds; GM + ED, exponentially, but in Δlog "
        "π; MI + ED, exponentially from 1 to 0. The paper's scores mostly rise with each "
        "part (GM beside MI + ED lowers two of six). Here it counts how large "
        "the margins are: the constant γ = 1.6 wins most and ends farthest from π*, small margins the reverse. Of "
        "the schedules of Table 7 the exponential one wins more than linear and cosine, as in the paper, and less "
        "than none. The bounds of Table 8 have the reverse of the paper's order in distance, and no such order in "
        "win rate. With π(y) of an unprompted model, whose answers are as popular but otherwise its own, RMiPO ends "
        "nearer to π* and wins a little less. No variant is near π*: π_ref itself has a JS of {reference:.3f}, "
        "since methods without a reference forget what is popular. Bottom left: for {largest:.0%} of the pairs of "
        "different responses γ ends within 0.1 of its largest value, and its mean is {mean:.2f}; the paper sees "
        "peaks at 0.4 and 1.4, close to SimPO's best γ. Here SimPO's best γ is the largest of its grid by the win "
        "rate, and {nearest:.2f} on average by distance (lines: means). Bottom right: sequences of one to three "
        "tokens, whose labeller adds half a nat for each, judged by labeller and truth; defaults of didsim. Without "
        "rewards per token (the paper's Table 5; DPO is usually summed) all but SimPER win less often, RMiPO "
        "losing at least as much as SimPO and α-DPO; SimPER then ends on one response for each prompt, farthest from "
        "π*, and wins as often. Means over seeds, bands 95% bootstrap intervals of the mean."
    ),
    alt=(
        "Two columns of dots around zero for twelve variants, the constant margin farthest to the right in both; a "
        "histogram of margins with most of its mass in the last bin; and win rates of five methods, filled markers "
        "to the right of open ones but for SimPER."
    ),
    axes={"part": ("margins", "lengths")},
    batch={"seed": seeds(20)},
    constants={"num_prompts": 4, "num_classes": 8, "num_popular": 2, "bias": 0.5, "max_length": 3},
    quick={"seed": seeds(3), "max_length": 2},
    panels=(2, 2),
    size=(7.2, 5.6),
    headline="js_target",
    minutes=0.3,
)

_RMIPO = OBJECTIVES["rmipo"]


def _by_prior(pairs, *, beta):
    """Return RMiPO's loss with the prior of the problem in place of the marginal of the policy."""
    chosen, rejected = (replace(y, log_marginal=y.prior) for y in (pairs.chosen, pairs.rejected))
    return _RMIPO.bind(beta=beta)(replace(pairs, chosen=chosen, rejected=rejected))


_UNPROMPTED = Objective(
    name="rmipo_unprompted",
    title="RMiPO whose π(y) is that of a model which is not shown the prompt: the prior of the world",
    formula=_RMIPO.formula,
    source=_RMIPO.source,
    parameters={"beta": _RMIPO.parameters["beta"]},
    pair=_by_prior,
    needs=frozenset({"length", "given_prior"}),
)

_SIMPER = OBJECTIVES["simper"]

_SIMPER_SUMMED = Objective(
    name="simper_summed",
    title="SimPER whose likelihoods are not normalised by length",
    formula="−π(y_w) + π(y_l)",
    source="RMiPO paper, Table 5",
    chosen_anchor=lambda y: -y.log_pi.exp(),
    rejected_anchor=lambda y: y.log_pi.exp(),
)

_UNIT = {"gamma_min": 0.0, "gamma_max": 1.0}

_VARIANTS = {
    "GM (no schedule)": _RMIPO.bind(schedule="none"),
    "MI": _RMIPO.bind(schedule="linear", **_UNIT),
    "GM + MI (linear)": _RMIPO.bind(schedule="linear"),
    "GM + ED": _RMIPO.bind(signal="log_pi"),
    "MI + ED": _RMIPO.bind(**_UNIT),
    "GM + MI + ED = RMiPO": _RMIPO.bind(),
    "cosine": _RMIPO.bind(schedule="cosine"),
    "γ in [0, 2]": _RMIPO.bind(gamma_min=0.0, gamma_max=2.0),
    "γ in [0.5, 1.4]": _RMIPO.bind(gamma_min=0.5, gamma_max=1.4),
    "γ in [1, 1.2]": _RMIPO.bind(gamma_min=1.0, gamma_max=1.2),
    "π(y) unprompted": _UNPROMPTED.bind(),
    "SimPO, γ = 0.3": objective("simpo", gamma=0.3),
    "π_ref": None,
}
"""The rows: those of Table 3, then those of Tables 7 and 8 that are not among them, then ours."""

_FULL, _OTHER = "GM + MI + ED = RMiPO", "π(y) unprompted"

_SECTIONS = {"Table 3": 6, "Table 7": 1, "Table 8": 3, "ours": 3}
"""How many rows each has."""

_METHODS = {
    "dpo": (objective("dpo_norm", beta=1.0), objective("dpo", beta=1.0)),
    "simpo": (
        objective("simpo"),
        objective("alpha_dpo", beta=2.0, gamma=0.5, reference_form="uniform", length_normalise=False),
    ),
    "alpha_dpo": (objective("alpha_dpo"), objective("alpha_dpo", length_normalise=False)),
    "simper": (objective("simper"), _SIMPER_SUMMED.bind()),
    "rmipo": (objective("rmipo"), objective("rmipo", length_normalise=False)),
}
"""The rows of Table 5: with rewards divided by length, and without."""

_GAMMAS = (0.3, 0.5, 1.0, 1.2, 1.4, 1.6)
"""SimPO's grid, in the paper's Table 4."""

_EDGES = np.linspace(0.3, 1.6, 14)


def run_cell(params):
    """Solve for every variant, in the world of popular responses or, for Table 5, of unequal lengths."""
    rows = _popular(params) if params["part"] == "margins" else _unequal(params)
    return pd.DataFrame(rows, columns=["panel", "series", "quantity", "x", "seed", "value"])


def _popular(params):
    """Return how far from π* each variant ends and how often it wins, and the margins with which two of them end."""
    sizes = {name: params[name] for name in ("num_prompts", "num_classes", "num_popular")}
    problems = {seed: boilerplate(**sizes, seed=seed) for seed in params["seed"]}
    simpo = {gamma: objective("simpo", gamma=gamma) for gamma in _GAMMAS}
    ends = _solve(problems, {**_VARIANTS, **simpo})
    rows = []
    for seed, problem in problems.items():
        full = _scores(problem, ends[_FULL, seed])
        for place, name in enumerate(_VARIANTS):
            for quantity, value in _scores(problem, ends[name, seed]).items():
                rows.append(("variants", name, quantity, place, seed, value))
                rows.append(("variants", name, f"{quantity}_more", place, seed, value - full[quantity]))
        margins = {_FULL: pmi(ends[_FULL, seed], problem.prompt_weights)}
        margins[_OTHER] = _beside_prior(problem, ends[_OTHER, seed])
        for name, information in margins.items():
            rows += [("margins", name, *fact, seed, value) for *fact, value in _distribution(problem, information)]
        scores = {gamma: _scores(problem, ends[gamma, seed]) for gamma in _GAMMAS}
        nearest = min(_GAMMAS, key=lambda gamma: scores[gamma]["js_target"])
        winning = max(_GAMMAS, key=lambda gamma: scores[gamma]["win_rate"])
        rows += [("margins", "SimPO", "nearest", 0, seed, nearest), ("margins", "SimPO", "winning", 0, seed, winning)]
    return rows


def _solve(problems, losses):
    """Return where each loss ends in each problem, by its name and the seed; where there is no loss, π_ref."""
    runs = [(name, seed) for name, loss in losses.items() if loss is not None for seed in problems]
    solutions = solve_many([(problems[seed], losses[name]) for name, seed in runs], starts=1)
    ends = {(name, seed): problem.reference for name in losses for seed, problem in problems.items()}
    for run, solution in zip(runs, solutions, strict=True):
        assert solution.policy is not None  # each of these ends somewhere, SimPER on an edge of the simplex
        ends[run] = solution.policy
    return ends


def _scores(problem, policy):
    distance = mean_js(problem, problem.target, policy)
    return {"js_target": distance, "win_rate": win_rate(problem, policy)}


def _beside_prior(problem, policy):
    """Return log π(y|x) less that of the prior, [X, K]."""
    return policy.log_probs - problem.prior.log_probs


def _distribution(problem, information):
    """Return the share of pairs of different responses whose margin γ lies in each bin, and its mean.

    Args:
        problem: whose pairs.
        information: log π(y|x)/π(y), [X, K].
    """
    evidence = to_tensor(np.stack(np.broadcast_arrays(information[:, :, None], information[:, None, :])))
    zeros, ones = torch.zeros_like(evidence[0]), torch.ones_like(evidence[0])
    loss = _RMIPO.bind(beta=1.0)(
        Pairs.from_log_probs(
            log_pi_chosen=zeros,
            log_pi_rejected=zeros,
            length_chosen=ones,
            length_rejected=ones,
            log_marginal_chosen=-evidence[0],
            log_marginal_rejected=-evidence[1],
        )
    )
    gamma = np.log(np.expm1(to_array(loss)))  # the loss is log(1 + e^γ) where rewards are equal
    weights = distinct_pairs(problem)
    shares, _ = np.histogram(np.clip(gamma, _EDGES[0], _EDGES[-1]), _EDGES, weights=weights)
    rows = [("share", float(x), float(share)) for x, share in zip(_EDGES[:-1], shares, strict=True)]
    return [*rows, ("mean", 0, float((weights * gamma).sum()))]


def _unequal(params):
    """Return how often each method wins by the truth and by the labeller, who likes length, and how far it ends."""
    sizes = {"vocabulary": 2, "max_length": params["max_length"], "num_prompts": 2}
    problems = {seed: length_bias(**sizes, bias=params["bias"], seed=seed) for seed in params["seed"]}
    ends = _solve(problems, {(name, way): loss for name, ways in _METHODS.items() for way, loss in enumerate(ways)})
    rows = []
    for seed, problem in problems.items():
        truth = length_bias(**sizes, bias=0.0, seed=seed)
        for place, name in enumerate(_METHODS):
            for way, kind in enumerate(("with", "without")):
                policy = ends[(name, way), seed]
                found = {**_scores(problem, policy), "win_rate_truth": win_rate(truth, policy)}
                rows += [(kind, name, quantity, place, seed, value) for quantity, value in found.items()]
    return rows


def summarise(df):
    """Average over seeds."""
    point = ["panel", "series", "quantity", "x"]
    points = mean_bands(df, point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw distances and win rates of the variants above, and margins and unequal lengths below."""
    variants = df[(df["panel"] == "variants") & (df["series"] != "π_ref")]
    titles = {"js_target": "JS(π*‖π) [nats]", "win_rate": r"win rate against $\pi_{\mathrm{ref}}$"}
    for axis, (quantity, title) in zip(axes[0], titles.items(), strict=True):
        whole = variants[(variants["quantity"] == quantity) & (variants["series"] == _FULL)]["mean"].iloc[0]
        _draw_rows(axis, variants[variants["quantity"] == f"{quantity}_more"])
        axis.set_xlabel(f"{title}, less RMiPO's {whole:.3f}")
    axes[0, 1].tick_params(labelleft=False)
    axes[0, 1].legend(loc="lower right")
    _draw_margins(axes[1, 0], df[df["panel"] == "margins"])
    _draw_lengths(axes[1, 1], df[df["panel"].isin(["with", "without"])])


_COLOURS = {"Table 3": OKABE_ITO[5], "Table 7": OKABE_ITO[6], "Table 8": OKABE_ITO[3], "ours": OKABE_ITO[0]}


def _draw_rows(axis, rows):
    """Draw a marker with its band for each variant, coloured by the table it is from."""
    sections = np.repeat(list(_SECTIONS), list(_SECTIONS.values()))
    for name, colour in _COLOURS.items():
        part = rows[sections[rows["x"].astype(int)] == name]
        axis.hlines(part["x"], part["lo"], part["hi"], color=colour)
        axis.plot(part["mean"], part["x"], "o", color=colour, markersize=3.5, label=name)
    axis.axvline(0.0, color="0.5", linewidth=0.6)
    axis.locator_params(axis="x", nbins=5)
    axis.set_yticks(rows["x"], rows["series"])
    axis.set_ylim(len(rows) - 0.4, -0.6)


def _draw_margins(axis, rows):
    """Draw the shares of pairs by margin, and where SimPO's best margins are."""
    for (name, colour), shift in zip({_FULL: OKABE_ITO[5], _OTHER: OKABE_ITO[1]}.items(), (-0.02, 0.02), strict=True):
        part = rows[(rows["series"] == name) & (rows["quantity"] == "share")]
        centres = part["x"] + 0.5 * (_EDGES[1] - _EDGES[0]) + shift
        label = "marginal π(y)" if name == _FULL else "unprompted π(y)"
        axis.bar(centres, part["mean"], width=0.04, color=colour, label=label)
        axis.vlines(centres, part["lo"], part["hi"], color="0.2", linewidth=0.6)
    best = rows[rows["series"] == "SimPO"].set_index("quantity")["mean"]
    for quantity, words, line in (("nearest", "nearest to π*", "-"), ("winning", "winning most", ":")):
        axis.axvline(best[quantity], color="0.35", linewidth=1.0, linestyle=line, label=f"SimPO's best γ: {words}")
    axis.set_title("Figure 8: the margins at the end")
    axis.set_xlabel("margin γ [nats]")
    axis.set_ylabel("share of pairs")
    axis.legend(loc="upper center")


def _draw_lengths(axis, rows):
    """Draw win rates by the truth and by the labeller, with and without rewards per token."""
    looks = {"win_rate_truth": ("o", "truth"), "win_rate": ("s", "labeller")}
    for (kind, quantity), part in rows[rows["quantity"] != "js_target"].groupby(["panel", "quantity"], sort=False):
        marker, words = looks[quantity]
        heights = part["x"] + (0.12 if kind == "without" else -0.12)
        colour = OKABE_ITO[5] if quantity == "win_rate_truth" else OKABE_ITO[6]
        fill = {"markerfacecolor": "white"} if kind == "without" else {}
        axis.hlines(heights, part["lo"], part["hi"], color=colour)
        label = f"{words}, {'per token' if kind == 'with' else 'summed'}"
        axis.plot(part["mean"], heights, marker, color=colour, markersize=3.8, label=label, **fill)
    names = rows.drop_duplicates("x")
    axis.set_yticks(names["x"], [objective_look(name)[2] for name in names["series"]])
    axis.set_ylim(len(names) + 0.7, -0.6)
    axis.set_xlabel(r"win rate against $\pi_{\mathrm{ref}}$")
    axis.set_title("Table 5: rewards per token, or summed")
    axis.legend(loc="lower center", ncols=2, columnspacing=1.0, handletextpad=0.2)


def numbers(df):
    """Return how far π_ref is from π*, and how the margins are distributed."""
    value = df.set_index(["panel", "series", "quantity", "x"])["mean"].sort_index()
    last = df[df["quantity"] == "share"]["x"].max()
    return {
        "reference": value["variants", "π_ref", "js_target"].iloc[0],
        "largest": value["margins", _FULL, "share", last],
        "mean": value["margins", _FULL, "mean"].iloc[0],
        "nearest": value["margins", "SimPO", "nearest"].iloc[0],
    }
