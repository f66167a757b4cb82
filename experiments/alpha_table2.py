"""The ablations of the α-DPO paper, Tables 2, 5 and 6 and Figure 5: where every variant leads, over α."""

import pandas as pd

from didsim import objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band
from didsim.worlds import bradley_terry, length_bias, win_rate

SPEC = Spec(
    id="alpha_table2",
    title="Variants of α-DPO over α, by where they lead",
    source="α-DPO paper, Tables 2, 5 and 6, Fig. 5",
    caption=(
        "What each part of α-DPO (β = 2.5, γ = 0.15) does, over α, measured against SimPO (α = 0) in the same world: "
        "how often the labeller prefers a response of the policy to one of π_ref (top), and JS(π*‖π) (bottom). Pairs "
        "are labelled by a true reward r, π* ∝ π_ref e^r, over 15 classes, or over the 15 sequences of up to three of "
        "two tokens. As in the paper, the win rate of α-DPO grows with α, and is lower with γ = 0 and, for unequal "
        "lengths, without normalisation by length (as the paper's length-controlled one is; its raw one is higher); "
        "but the policy moves away from π*. Most of the ablation does not repeat here. Without z-scores the win rate "
        "is higher, until αβ|y| exceeds 1 (right, α = 0.2) and long responses are pushed the wrong way. Without the "
        "stop-gradient nothing collapses, with three tokens at most (the paper's Table 2 has 2.7 in place of 58.7). Of "
        "the other implicit references U π^α raises the win rate too, for equal lengths more than α-DPO's own; U "
        "π_ref^−α does so for unequal lengths alone; and U π_ref^α, the one that leads from SimPO to DPO, lowers it "
        "there and is nearer to π* in both worlds. TDPO's δ in place of M does nothing for single decisions and lowers "
        "the win rate for sequences, where the paper finds it above SimPO's. U alone is SimPO, the line of 0. DPO and "
        "TDPO1 (β = 2.5 too) win least and are nearest to π*. β and γ are the paper's for Mistral-Instruct, the second "
        "setting of its Table 2, whose α is 0.05; the other α are of its search. As in the authors' code, γ and α "
        "count β times: the margin asked for is β(γ + αz). The first setting, Llama3-v0.2, is not drawn: with its αβ = "
        "2 no stationary policy is found without z-scores. 700 steps of Adam with exact expectations, whose rate falls "
        "from 0.3 to 0 as a cosine: for equal lengths this is the stationary policy, for unequal ones nearly so where "
        "there is one. Means over seeds, bands 95% bootstrap intervals of the mean. The paper has language models."
    ),
    alt=(
        "Four panels of curves over α, most of which start together at 0. The win rate of α-DPO rises slowly; without "
        "z-scores it rises fast, and falls below 0 for unequal lengths at α = 0.2. DPO and TDPO1 are flat, low in win "
        "rate and lowest in divergence from the target."
    ),
    axes={
        "lengths": ("equal lengths", "unequal lengths"),
        "variant": (
            *("ratio", "no z-score", "no stop", "γ = 0", "policy", "reference", "inverse"),
            *("TDPO's δ", "no lengths", "dpo", "tdpo1"),
        ),
    },
    batch={"seed": seeds(20), "alpha": (0.0, 0.01, 0.05, 0.1, 0.2)},
    constants={"beta": 2.5, "gamma": 0.15, "steps": 700},
    quick={"seed": seeds(3), "variant": ("ratio", "no z-score", "policy", "dpo"), "alpha": (0.0, 0.1, 0.2)},
    panels=(2, 2),
    size=(7.2, 5.4),
    headline="win_rate_gain",
    minutes=0.3,
)

_VARIANTS = {
    "ratio": {},
    "no z-score": {"normalise": False},
    "no stop": {"stop_gradient": False},
    "γ = 0": {"gamma": 0.0},
    "policy": {"reference_form": "policy"},
    "reference": {"reference_form": "reference"},
    "inverse": {"reference_form": "inverse_reference"},
    "TDPO's δ": {"margin": "tdpo"},
    "no lengths": {"length_normalise": False},
}
"""What a variant changes of α-DPO."""


def run_cell(params):
    """Train one variant for all α and seeds, and measure where it is then."""
    problems = {seed: _world(params["lengths"], seed) for seed in params["seed"]}
    runs = [(alpha, loss, seed) for alpha, loss in _losses(params).items() for seed in problems]
    histories = train_many(
        [(problems[seed], loss) for _, loss, seed in runs],
        steps=params["steps"],
        record_every=params["steps"],
        mode="population",
        optimiser="adam",
        learning_rate=0.3,
        schedule="cosine",
        dtype="float64",
        metrics=("js_target",),
    )
    rows = []
    for (alpha, _, seed), history in zip(runs, histories, strict=True):
        assert history.policy is not None  # none of these diverges
        rows += [(seed, alpha, "js_target", float(history.metrics["js_target"][-1]))]
        rows += [(seed, alpha, "win_rate", win_rate(problems[seed], history.policy))]
    frame = pd.DataFrame(rows, columns=["seed", "x", "quantity", "value"])
    return frame.assign(panel=params["lengths"], series=params["variant"])


def _losses(params):
    """Return the losses of a variant by α; one that has no α stands at 0."""
    name, numbers = params["variant"], {"beta": params["beta"], "gamma": params["gamma"], "gamma_form": "ratio"}
    if name not in _VARIANTS:
        return {0.0: objective(name, beta=params["beta"])}
    return {
        alpha: objective("alpha_dpo", **{**numbers, "alpha": alpha, **_VARIANTS[name]}) for alpha in params["alpha"]
    }


def _world(lengths, seed):
    """Return pairs labelled by a true reward: 15 classes, or the 15 sequences of up to three of two tokens."""
    return bradley_terry(15, seed=seed) if lengths == "equal lengths" else length_bias(2, 3, bias=0.0, seed=seed)


def summarise(df):
    """Average over seeds: the measures themselves, and what they are above those of SimPO in the same world."""
    point = ["panel", "series", "quantity", "x"]
    simpo = df[(df["series"] == "ratio") & (df["x"] == 0.0)].set_index(["panel", "quantity", "seed"])["value"]
    above = df["value"].to_numpy() - simpo.loc[pd.MultiIndex.from_frame(df[["panel", "quantity", "seed"]])].to_numpy()
    gains = df.assign(value=above, quantity=df["quantity"] + "_gain")
    points = mean_bands(pd.concat([df, gains], ignore_index=True), point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


_DASHED = (0, (4, 1.5))

_LOOKS = {
    "ratio": (OKABE_ITO[6], "-", "o", "α-DPO"),
    "no z-score": (OKABE_ITO[1], "-", "^", "no z-score"),
    "no stop": (OKABE_ITO[7], "-", "s", "no stop-gradient"),
    "γ = 0": (OKABE_ITO[3], "-", "v", "γ = 0"),
    "no lengths": (OKABE_ITO[0], "-", "D", "not by length"),
    "TDPO's δ": (OKABE_ITO[2], "-", "P", "δ for M"),
    "policy": (OKABE_ITO[1], _DASHED, "^", r"U $\pi^\alpha$"),
    "reference": (OKABE_ITO[7], _DASHED, "s", r"U $\pi_{\mathrm{ref}}^{\,\alpha}$"),
    "inverse": (OKABE_ITO[3], _DASHED, "v", r"U $\pi_{\mathrm{ref}}^{\,-\alpha}$"),
    "dpo": (OKABE_ITO[5], "-", "", "DPO"),
    "tdpo1": (OKABE_ITO[0], (0, (1, 1.2)), "", "TDPO1"),
}
"""Colour, line, marker and name of each variant: dashed lines have another implicit reference."""

_QUANTITIES = {"win_rate_gain": "win rate above SimPO's", "js_target_gain": "JS(π*‖π) above SimPO's [nats]"}


def draw(df, axes):
    """Draw both measures over α, a column for each world; what has no α is a level."""
    most = df["x"].max()
    for column, (panel, rows) in enumerate(df.groupby("panel", sort=False)):
        for axis, first, (quantity, label) in zip(axes[:, column], axes[:, 0], _QUANTITIES.items(), strict=True):
            axis.sharey(first)
            for name, curve in rows[rows["quantity"] == quantity].groupby("series", sort=False):
                level = pd.concat([curve, curve.assign(x=most)]) if name not in _VARIANTS else curve
                draw_band(axis, level, **_look(str(name)))
            axis.set_ylabel(label if column == 0 else "")
            axis.margins(x=0)
            axis.locator_params(axis="x", nbins=4)
        axes[0, column].set_title(panel)
        axes[1, column].set_xlabel("α")
    lines, words = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].figure.legend(lines, words, loc="outside upper center", ncols=6)


def _look(name):
    """Return how a variant is drawn, with a marker at each α."""
    colour, line, marker, words = _LOOKS[name]
    fill = colour if line == "-" else "white"
    marks = {"marker": marker, "markersize": 5.0 if marker == "D" else 3.5, "markerfacecolor": fill}
    above = 3.0 if name == "ratio" else 2.0  # for equal lengths it is the same without normalisation by length
    return {"color": colour, "linestyle": line, "label": words, "zorder": above, **marks}
