"""Tables 1 and 2 of the DID paper: the entropy of differential information, estimated as in Appendix K, and exact."""

import numpy as np
import pandas as pd

from didsim import Policy, Problem, closed_form, did, entropy, monte_carlo_entropy, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO

SPEC = Spec(
    id="table1_2",
    title="Estimated entropies of differential information against exact ones",
    source="DID paper, Tables 1 and 2, Appendix K",
    caption=(
        "Left: the entropy of what preferences encode, exact and as Table 1 estimates it: a policy is trained with r "
        "= β log π, and its entropy is sampled (4000 responses). Middle: the entropy of the differential information "
        "from π_ref to a policy trained with DPO or DPO-PG, exact and as Table 2 estimates it, by the entropy of a "
        "probe trained on y_w ~ π, y_l ~ π_ref: on 40 000 pairs once in batches of 64, as in the paper; for 2000 "
        "steps of 512; and on the greedy responses, which are what the paper's experiment takes. Right: bias of these "
        "three, with bars as long as the mean distance of a seed's error from it. The long probe is right. One pass "
        "leaves the estimate between H(π_ref), where the probe starts, and the truth. Greedy pairs tell of q only "
        "which responses are likeliest: their estimates are up to {greedy} nats too low, and right at β = 0.02 by "
        "accident. In Table 1 the smallest β are far from trained: their entropies come out too high. What orders the "
        "exact entropies is the size of the update: DPO at small β moves far, and H(q) falls below H(π_ref) (dotted), "
        "while DPO-PG hardly moves, and its H(q) is nearly log K, the largest there is; the paper finds its estimate "
        "below DPO's. Means over seeds, bands 95% bootstrap intervals of the mean. Four prompts of 16 responses, w, l "
        "∝ π_ref e^{{±u/2}} with log-odds u ~ N(0, 0.1²), since β would else be too small for policies inside the "
        "simplex; 2000 steps of RMSprop whose rate falls from 1e-2 to 0."
    ),
    alt=(
        "Three panels by training method. Estimates by r = β log π lie above the exact entropies for small β; those "
        "of the long probe on them, those of greedy pairs mostly well below."
    ),
    axes={},
    batch={"seed": seeds(20), "beta": (0.2, 0.1, 0.05, 0.02)},
    constants={"num_classes": 16, "num_prompts": 4, "odds": 0.1, "steps": 2000},
    quick={"seed": seeds(3), "steps": 400},
    panels=(1, 3),
    size=(7.2, 2.9),
    headline="estimate",
    minutes=0.3,
)

_SAMPLES = 4000
"""Responses that an estimate takes: four for each of a thousand prompts, as in the paper."""


def run_cell(params):
    """Train with every β and with DPO-PG, estimate the entropies that Tables 1 and 2 ask for, and compute them."""
    problems = {seed: _world(params, seed) for seed in params["seed"]}
    losses = {
        **{("Table 1", beta): objective("log_pi", beta=beta) for beta in params["beta"]},
        **{("Table 2", beta): objective("dpo", beta=beta) for beta in params["beta"]},
        ("Table 2", 0.0): objective("dpo_pg"),
    }
    runs = [(*place, seed, loss) for place, loss in losses.items() for seed in problems]
    policies = _train([(problems[seed], loss, seed) for *_, seed, loss in runs], params["steps"])
    rows, probed = [], []
    for (table, beta, seed, loss), policy in zip(runs, policies, strict=True):
        if table == "Table 1":
            exact = closed_form(problems[seed], loss)
            rows += _compared((table, "r = β log π", beta, seed), exact, policy)
        else:
            probed.append((beta, seed, problems[seed], policy))
    for seed, problem in problems.items():
        rows += [
            ("Table 1", "reference", beta, seed, "exact", _mean_entropy(problem.reference)) for beta in params["beta"]
        ]
    return pd.DataFrame(
        rows + _probed(probed, params["steps"]), columns=["panel", "series", "x", "seed", "quantity", "value"]
    )


def _world(params, seed):
    """Return a problem whose labels are nearly a toss: w, l ∝ π_ref e^{±u/2} with log-odds u of little size."""
    shape = (params["num_prompts"], params["num_classes"])
    log_ref, update = np.random.default_rng(seed).standard_normal((2, *shape))
    reference = Policy.from_logits(log_ref)
    chosen, rejected = (Policy.from_logits(log_ref + half * params["odds"] * update) for half in (0.5, -0.5))
    return Problem(reference, reference, rejected, chosen, np.full(shape[0], 1.0 / shape[0]))


def _train(runs, steps, **settings):
    """Return the policies to which training leads, one for each problem, loss and seed."""
    options = {"steps": steps, "learning_rate": 1e-2, "schedule": "linear", **settings}
    jobs, numbers = [run[:2] for run in runs], [run[2] for run in runs]
    return [history.policy for history in train_many(jobs, seed=numbers, record_every=10**9, metrics=(), **options)]


def _probed(policies, steps):
    """Return rows for H(q) of trained policies, estimated by probes of three kinds."""
    rows, loss = [], objective("entropy_probe")
    for name, (decode, settings) in _PROBES.items():
        pairs = [
            Problem(problem.reference, policy, decode(problem.reference), decode(policy), problem.prompts)
            for _, _, problem, policy in policies
        ]
        runs = [(problem, loss, seed) for problem, (_, seed, _, _) in zip(pairs, policies, strict=True)]
        probes = _train(runs, **{"steps": steps, **settings})
        for (beta, seed, problem, policy), probe in zip(policies, probes, strict=True):
            rows += _compared(("Table 2", name, beta, seed), did(policy, problem.reference), probe)
    return rows


def _greedy(policy):
    return Policy.from_probs(np.eye(policy.num_classes)[policy.log_probs.argmax(axis=-1)])


_ONE_PASS = {"steps": 625, "batch_size": 64, "learning_rate": 5e-3, "schedule": "constant"}

_PROBES = {
    "one pass": (lambda policy: policy, _ONE_PASS),
    "long": (lambda policy: policy, {}),
    "greedy": (_greedy, _ONE_PASS),
}
"""Probes by what they are trained on: 40 000 pairs once, as in the paper; many more; the pairs of greedy decoding."""


def _mean_entropy(policy):
    return float(np.mean(entropy(policy)))


def _compared(place, truth, trained):
    """Return rows for an exact entropy and its estimate from a trained policy, and for how far they are apart."""
    exact, estimate = _mean_entropy(truth), monte_carlo_entropy(trained, _SAMPLES, place[-1])
    found = {"exact": exact, "estimate": estimate, "error": estimate - exact}
    return [(*place, quantity, value) for quantity, value in found.items()]


def summarise(df):
    """Average over seeds; the spread of the errors is the mean of their distances from their mean."""
    point = ["panel", "series", "quantity", "x"]
    errors = df[df["quantity"] == "error"]
    spread = (errors["value"] - errors.groupby(point)["value"].transform("mean")).abs()
    rows = pd.concat([df, errors.assign(quantity="spread", value=spread)], ignore_index=True)
    points = mean_bands(rows, point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


_LOOKS = {
    "exact": (OKABE_ITO[0], "_", 0.0),
    "r = β log π": (OKABE_ITO[1], "o", 0.0),
    "one pass": (OKABE_ITO[5], "o", -0.22),
    "long": (OKABE_ITO[3], "s", 0.0),
    "greedy": (OKABE_ITO[6], "^", 0.22),
}
"""Colour, marker, and shift to the side."""

_REFERENCE = {"s": r"H($\pi_{\mathrm{ref}}$)", "color": "0.35", "va": "top"}


def draw(df, axes):
    """Draw the estimates of both tables beside the exact values, and the errors of those of Table 2."""
    titles = {"Table 1": r"Table 1: H($p^{*1/\beta}$)", "Table 2": r"Table 2: H(q), q from $\pi_{\mathrm{ref}}$ to π"}
    for axis, (table, title) in zip(axes[0], titles.items(), strict=False):
        rows = df[df["panel"] == table]
        exact = rows[(rows["quantity"] == "exact") & (rows["series"] != "reference")]
        _points(axis, exact.drop_duplicates("x").assign(series="exact"), "exact")
        _points(axis, rows[rows["quantity"] == "estimate"])
        axis.axhline(df[df["series"] == "reference"]["mean"].iloc[0], color="0.5", linestyle=":", linewidth=1.0)
        axis.set_title(title)
    axes[0, 0].set_ylabel("entropy [nats]")
    errors = df[(df["panel"] == "Table 2") & df["quantity"].isin(["error", "spread"])]
    _points(axes[0, 2], errors[errors["quantity"] == "error"], bars=errors[errors["quantity"] == "spread"])
    axes[0, 2].axhline(0.0, color="0.5", linewidth=0.8)
    axes[0, 2].set_title("estimate − exact\n[nats]")
    axes[0, 0].text(
        0.02, df[df["series"] == "reference"]["mean"].iloc[0], **_REFERENCE, transform=axes[0, 0].get_yaxis_transform()
    )
    axes[0, 0].legend(loc="lower left")
    axes[0, 2].legend(loc="lower right")


def _points(axis, rows, name=None, bars=None):
    """Draw a marker for each number of a table, in columns of β and DPO-PG, with its band or given bars."""
    columns = sorted(rows["x"].unique(), reverse=True)
    places = {beta: float(column) for column, beta in enumerate(columns)}
    for series, points in rows.groupby("series", sort=False):
        colour, marker, shift = _LOOKS[name or series]
        along = points["x"].map(places) + shift
        if name is not None:
            axis.hlines(points["mean"], along - 0.4, along + 0.4, color=colour, linewidth=1.2, label=name)
            continue
        below, above = points["mean"] - points["lo"], points["hi"] - points["mean"]
        if bars is not None:
            below = above = bars[bars["series"] == series]["mean"].to_numpy()
        look = {"linestyle": "", "markersize": 3.5, "elinewidth": 1.0, "label": series}
        axis.errorbar(along, points["mean"], (below, above), color=colour, marker=marker, **look)
    axis.set_xticks(list(places.values()), [f"β = {beta:g}" if beta else "DPO-PG" for beta in columns], rotation=30)
    axis.grid(axis="x", visible=False)


def numbers(df):
    """Return by how much the estimates from greedy pairs are too low at most."""
    errors = df[(df["series"] == "greedy") & (df["quantity"] == "error")]["mean"]
    return {"greedy": f"{-errors.min():.1f}"}
