"""What float64, float32 and bfloat16 cost, in nats, by how deep in the tail a response lies."""

import numpy as np
import pandas as pd
import torch

from didsim import Pairs, objective
from didsim.experiment import Spec, mean_bands, seeds
from didsim.objectives import Responses
from didsim.plotting import OKABE_ITO, draw_band, label_ends
from didsim.torch_bridge import to_array, to_tensor

SPEC = Spec(
    id="precision",
    title="Errors of float32 and bfloat16 by tail depth",
    source="ours",
    caption=(
        "How wrong log π/π_ref of a response comes out, against how deep it lies in the tail. Left: a response of 100 "
        "tokens whose true log-ratio is a standard normal number, computed from log-probabilities of tokens that are "
        "rounded to each format, and summed token by token in it (once in float32). The error grows with the depth, "
        "since a format keeps a number of digits and not a number of nats: in bfloat16 it reaches the size of the "
        "log-ratio itself at a few hundred nats, which is where language models' responses lie, and summing in "
        "float32 saves a factor of {least:.0f} to {most:.0f}. Right: DPO (β = 1) on 32 single responses of depths "
        "from 1 to 256 nats, every pair seen alike, all numbers of the training in one format: mean difference of the "
        "log-ratios from those of float64 after 600 steps of gradient descent on the same data. In bfloat16 a step "
        "that is smaller than the spacing of numbers near the logit is lost, so that deep responses hardly move; in "
        "float32 the error stays below {single:.0e}. Means over seeds, bands 95% bootstrap intervals of the mean."
    ),
    alt=(
        "Two panels of rising curves on logarithmic axes. Left, from the top: bfloat16, bfloat16 summed in float32, "
        "float32, float64. Right: bfloat16 some five orders of magnitude above float32."
    ),
    axes={"part": ("rounding", "training")},
    batch={"seed": seeds(20)},
    constants={"num_classes": 32, "steps": 600, "learning_rate": 30.0},
    quick={"seed": seeds(3), "steps": 100},
    panels=(1, 2),
    size=(7.0, 2.8),
    headline="error",
    minutes=0.1,
)

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}

_RESPONSES, _TOKENS = 200, 100
"""How many responses of each depth are rounded, and of how many tokens they are."""


def run_cell(params):
    """Measure the error of log-ratios that are rounded, or that a training in low precision ends with."""
    if params["part"] == "rounding":
        rows = [row for seed in params["seed"] for row in _rounded(seed)]
    else:
        rows = _trained(params)
    frame = pd.DataFrame(rows, columns=["seed", "series", "x", "value"])
    return frame.assign(panel=params["part"], quantity="error")


def _rounded(seed):
    """Return mean errors of the implicit reward of a response of so many nats, whose tokens are summed in each way."""
    reward, rng = objective("dpo", beta=1.0).implicit_reward, np.random.default_rng(seed)
    rows = []
    for depth in 2.0 ** np.arange(0, 13):
        log_ref = -depth * rng.dirichlet(np.full(_TOKENS, 2.0), _RESPONSES)
        log_pi = log_ref + rng.standard_normal((_RESPONSES, 1)) / _TOKENS
        exact = (log_pi - log_ref).sum(axis=1)
        for name, (tokens, sums) in _WAYS.items():
            policy, reference = (_summed(to_tensor(logs, tokens).to(sums)) for logs in (log_pi, log_ref))
            found = to_array(reward(Responses(policy, reference)))
            rows.append((seed, name, float(depth), float(np.abs(found - exact).mean())))
    return rows


_WAYS = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bf16, summed in float32": (torch.bfloat16, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
}
"""The precision of a token's log-probability, and that of their sum."""


def _summed(tokens):
    """Return sums over tokens, one token after the other."""
    total = torch.zeros_like(tokens[:, 0])
    for token in tokens.unbind(dim=1):
        total = total + token
    return total


def _trained(params):
    """Return by how much log-ratios that DPO ends with differ from those of float64, response by response."""
    size = params["num_classes"]
    log_ref = -np.geomspace(1.0, 256.0, size)
    log_ref = log_ref - np.log(np.exp(log_ref).sum())
    odds = np.stack([np.random.default_rng(seed).standard_normal(size) for seed in params["seed"]])
    labels = 1.0 / (1.0 + np.exp(odds[:, None, :] - odds[:, :, None]))  # every pair is seen, its label Bradley–Terry
    ends = {name: _train(log_ref, labels, dtype, params) for name, dtype in _DTYPES.items()}
    rows = []
    for name in ("float32", "bfloat16"):
        for seed, errors in zip(params["seed"], np.abs(ends[name] - ends["float64"]), strict=True):
            rows += [(seed, name, float(depth), float(error)) for depth, error in zip(-log_ref, errors, strict=True)]
    return rows


def _train(log_ref, labels, dtype, params):
    """Train DPO by gradient descent, all numbers in one precision, a policy for each table of labels, [S, K, K].

    Returns:
        The log-ratios log π/π_ref, [S, K].
    """
    loss, shape = objective("dpo", beta=1.0), labels.shape
    weights = to_tensor(labels / labels[0].sum(), dtype)
    reference = to_tensor(np.broadcast_to(log_ref, shape[:2]), dtype)
    chosen_ref, rejected_ref = (part.flatten() for part in _sides(reference, shape))
    logits = reference.clone().requires_grad_()
    for _ in range(params["steps"]):
        chosen, rejected = (part.flatten() for part in _sides(torch.log_softmax(logits, dim=1), shape))
        pairs = Pairs.from_log_probs(
            log_pi_chosen=chosen, log_pi_rejected=rejected, log_ref_chosen=chosen_ref, log_ref_rejected=rejected_ref
        )
        (slope,) = torch.autograd.grad((weights.flatten() * loss(pairs)).sum(), logits)
        logits = (logits.detach() - params["learning_rate"] * slope).requires_grad_()
    return to_array(torch.log_softmax(logits.detach(), dim=1)) - log_ref


def _sides(values, shape):
    """Return what belongs to the chosen and to the rejected response of every pair, [S, K, K] each."""
    return values[:, :, None].expand(shape), values[:, None, :].expand(shape)


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["panel", "series", "quantity", "x"], "value")
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_LOOKS = {
    "float64": (OKABE_ITO[0], "-"),
    "float32": (OKABE_ITO[5], (0, (4, 1.5))),
    "bf16, summed in float32": (OKABE_ITO[1], (0, (4, 1.2, 1, 1.2))),
    "bfloat16": (OKABE_ITO[6], (0, (1, 1.2))),
}


def draw(df, axes):
    """Draw the errors of rounding and of training against depth."""
    for axis, (_, rows) in zip(axes[0], df.groupby("panel", sort=False), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="depth −log π(y) [nats]")
        for name, curve in rows.groupby("series", sort=False):
            colour, line = _LOOKS[str(name)]
            draw_band(axis, curve, color=colour, linestyle=line, label=name)
        axis.margins(x=0)
        label_ends(axis, line_height=1.6)
    axes[0, 0].set_title("rounding of a log-ratio\nof 100 tokens")
    axes[0, 1].set_title("DPO trained in that precision")
    axes[0, 0].set_ylabel(r"mean error of log π/$\pi_{\mathrm{ref}}$ [nats]")


def numbers(df):
    """Return by what factors summing in float32 helps, and how far training in it strays."""
    rounding = df[df["panel"] == "rounding"].pivot_table(index="x", columns="series", values="mean")
    saved = rounding["bfloat16"] / rounding["bf16, summed in float32"]
    single = df[(df["panel"] == "training") & (df["series"] == "float32")]["mean"].max()
    return {"least": saved.min(), "most": saved.max(), "single": single}
