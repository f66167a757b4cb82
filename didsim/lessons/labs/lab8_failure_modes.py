"""Lab of lesson 8: failure modes."""

# The cells stay short: a solver that finds nothing stops the cell that asked.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Lab: failure modes")

with app.setup:
    import marimo as mo
    import numpy as np

    import didsim as ds
    from didsim.lessons import evenly, geometrically
    from didsim.lessons.grading import specimens
    from didsim.lessons.labs.tools import BLACK, BLUE, GREEN, VERMILION, claims, decades, figure, short, slider
    from didsim.plotting import label_ends


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Failure modes

    *The lab of lesson 8, with the library live: every number is computed when you move a slider. Predict, move the
    slider, read one sentence.*

    ## 1. The zoo of wrong implementations

    DPO with one mistake, beside DPO without: eight responses, gradient descent on the exact loss. The pairs encode
    the target at the $\beta$ of the loss.

    **Predict.** Choose a mistake. Where does its loss begin, and which way does it go? Does the distance fall, rise
    or stay? Which mistake does no harm at $\beta = 1$?
    """)
    return


@app.cell
def _():
    mistake = mo.ui.dropdown(
        [name for name in specimens.LOSSES if name not in ("no mistake", "swapped halfway")],
        value="flipped margin",
        label="mistake",
    )
    beta = slider("β of the loss and of the pairs", evenly(0.1, 1, 19), 0.5)
    mo.vstack([mistake, beta])
    return beta, mistake


@app.cell
def _(beta, mistake):
    problem = specimens.problem(beta.value)
    _names = ("no mistake", mistake.value)
    _settings = {**specimens.SETTINGS, "steps": 50, "learning_rate": 4.0, "record_every": 2}
    _histories = ds.train_many([(problem, specimens.specimen(name, beta.value)) for name in _names], **_settings)
    runs = dict(zip(_names, _histories, strict=True))

    def draw_runs(metric, **settings):
        """Return a drawing of a metric of both runs."""

        def draw(axis):
            for (name, run), colour in zip(runs.items(), (GREEN, VERMILION), strict=True):
                axis.plot(run.frame["step"], run.metrics[metric], color=colour, label=name)
            axis.set(xlabel="training steps", **settings)
            label_ends(axis)

        return draw

    return draw_runs, problem, runs


@app.cell
def _(draw_runs):
    _draw = draw_runs("js_target", ylabel="JS(π*, π), nats", ylim=(-0.01, 0.7))
    figure(_draw, "The distance to the target during training, without a mistake and with one.", right=0.76)
    return


@app.cell
def _(beta, draw_runs, mistake, runs):
    _loss, _distance = (runs[mistake.value].metrics[name] for name in ("loss", "js_target"))
    _draw = draw_runs("loss", ylabel="loss, nats", ylim=(-1.5, 1.5))
    mo.vstack(
        [
            figure(_draw, "The loss that the code reports, without a mistake and with one.", right=0.76),
            mo.md(
                f"With “{mistake.value}” at β = {beta.value:g} the reported loss goes from {short(_loss[0])} to "
                f"{short(_loss[-1])} and the distance to π* from {short(_distance[0])} to {short(_distance[-1])} nats; "
                f"without a mistake it goes to {short(runs['no mistake'].metrics['js_target'][-1])}."
            ),
            mo.md(
                "Now without looking: `didsim teach start zoo`. And your own loss: `didsim check-loss FILE:FUNCTION`."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 2. Sum for mean

    Responses are now sequences over two tokens, up to a greatest length. Does a loss look at the *sum* of the token
    log-probabilities or at their *mean*, with a reference or without?

    **Predict.** Only one of the four ends at the target's lengths. Which? And whose error grows with the greatest
    length?
    """)
    return


@app.cell
def _():
    score = mo.ui.dropdown(
        {
            "DPO: sum": ds.objective("dpo", beta=1.0),
            "DPO: mean": ds.objective("dpo_norm", beta=1.0),
            "SimPO: mean, no reference": ds.objective("simpo", beta=1.0, gamma=0.0),
            "sum, no reference": ds.objective("log_pi", beta=1.0),
        },
        value="DPO: mean",
        label="score",
    )
    longest = slider("greatest length", (2, 3, 4, 5, 6), 4)
    mo.vstack([score, longest])
    return longest, score


@app.cell
def _(longest, score):
    sequences = ds.Problem.from_temperature(
        space=ds.Sequences(vocabulary=2, max_length=longest.value), tau=2.0, seed=42
    )
    end = ds.closed_form(sequences, score.value)
    lengths = sequences.space.lengths
    shares = {
        name: [float(policy.probs[lengths == n].sum()) for n in range(1, longest.value + 1)]
        for name, policy in (("target", sequences.target), ("end", end))
    }
    gap = float(ds.js(sequences.target, end))

    def _draw(axis):
        at = np.arange(1, longest.value + 1)
        axis.bar(at, shares["end"], color=BLUE, width=0.6, label="where it ends")
        axis.plot(at, shares["target"], "o", color=BLACK, label="target")
        axis.set(xlabel="length", ylabel="probability", ylim=(0, 1), xticks=at)
        axis.legend(loc="upper left")

    mo.vstack(
        [
            figure(_draw, "Probability of each length: bars for the end, dots for the target."),
            mo.md(
                f"“{score.selected_key}” ends {short(gap)} nats from the target, with responses of "
                f"{short(float(end.probs @ lengths))} tokens on average where the target has "
                f"{short(float(sequences.target.probs @ lengths))}."
            ),
            claims("x.stationary-dpo", "x.stationary-dpo_norm", "x.stationary-log_pi"),
        ]
    )
    return end, gap, lengths, sequences, shares


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 3. Saturated pairs

    Two responses; the target prefers the first by $\log 4$ nats. Training starts wrong by as much as you say.

    **Predict.** The loss is largest where the start is worst. Is training fastest there?
    """)
    return


@app.cell
def _():
    wrong = slider("the start is wrong by, nats", evenly(0, 30, 31), 12.0)
    mo.vstack([wrong])
    return (wrong,)


@app.cell
def _(wrong):
    _two = ds.Problem.from_policies([0.5, 0.5], [0.8, 0.2], beta=1.0)
    slow = ds.train(
        _two,
        ds.objective("dpo", beta=1.0),
        initial_policy=ds.Policy.from_logits([-wrong.value / 2, wrong.value / 2]),
        steps=100,
        **{**specimens.SETTINGS, "learning_rate": 1.0, "record_every": 4, "metrics": ("js_target",)},
    )
    distances = slow.metrics["js_target"]

    def _draw(axis):
        axis.plot(slow.frame["step"], distances, color=BLUE)
        axis.set(xlabel="training steps", ylabel="JS(π*, π), nats", ylim=(-0.01, 0.5))

    mo.vstack(
        [
            figure(_draw, "The distance to the target during training: flat at first where the start is very wrong."),
            mo.md(
                f"From a start that is wrong by {wrong.value:g} nats 20 steps take the distance from "
                f"{short(distances[0])} to {short(distances[5])} nats, and 100 to {short(distances[-1])}: the "
                "weight of a pair is at most 1, so that its margin climbs at a steady pace and no faster."
            ),
        ]
    )
    return distances, slow


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 4. Finite data

    No mistake at all, and $n$ pairs in place of all. The best policy for *these* pairs is computed exactly, without
    training. The line is what theory predicts for large $n$, on average.

    **Predict.** Ten times as many pairs: by what factor does the error fall? For how many is it 0?
    """)
    return


@app.cell
def _():
    pairs = slider("number of pairs n", geometrically(200, 200_000, 31), 2000.0)
    seed = slider("which draw", range(1, 21), 1)
    mo.vstack([pairs, seed])
    return pairs, seed


@app.cell
def _(pairs, seed):
    population = ds.Problem.from_temperature(num_classes=8, tau=2.0, seed=42)
    _rng, _count = np.random.default_rng(seed.value), int(pairs.value)
    data = ds.PreferenceDataset.from_classes(
        *(_rng.choice(8, size=_count, p=p.probs) for p in (population.chosen, population.rejected)), num_classes=8
    )
    best = ds.solve(population, ds.objective("dpo", beta=1.0), dataset=data, starts=1)
    found = float(ds.kl(population.target, best.policy)) if best.status == "converged" else np.nan
    expected = ds.predicted_error(population, _count, beta=1.0).kl

    def _draw(axis):
        grid = np.geomspace(100, 1e6, 17)
        axis.set_xscale("log")
        decades(axis, -6, 0)
        axis.plot(grid, [ds.predicted_error(population, int(n), beta=1.0).kl for n in grid], color=BLACK)
        axis.plot(pairs.value, found, "o", color=BLUE)
        axis.set(xlabel="number of pairs", ylabel="KL(π*‖π̂), nats", xlim=(100, 1e6))

    mo.vstack(
        [
            figure(_draw, "The predicted error falls as 1/n, a straight line; a dot is the error of this draw."),
            mo.md(
                f"The best policy for {_count} pairs of draw {seed.value} is {short(found)} nats (KL) from π*, where "
                f"{short(expected)} are predicted."
                if best.status == "converged"
                else f"For these {_count} pairs there is no best policy: {best.sentence}"
            ),
            claims("x.sample-size"),
        ]
    )
    return best, data, expected, found, population


if __name__ == "__main__":
    app.run()
