"""Lab of lesson 5: training against the exact solution."""

# The cells stay short: a solver that finds nothing stops the cell that asked.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Lab: training against the exact solution")

with app.setup:
    import marimo as mo
    import numpy as np
    import pandas as pd

    import didsim as ds
    from didsim.lessons import geometrically
    from didsim.lessons.labs.tools import BLACK, BLUE, ORANGE, claims, decades, figure, short, slider
    from didsim.plotting import draw_levels, draw_objectives, label_ends

    def visible(distances):
        """Return distances as they are drawn: one that is too small for the axis lies on its lowest line."""
        return np.maximum(distances, 1e-8)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Training against the exact solution

    *The lab of lesson 5, with the library live: every number is computed when you move a slider. Predict, move the
    slider, read one sentence.*

    ## 1. Where is it going?

    An objective is trained on the pairs of lesson 4: $K = 16$, $\tau = 4$, the exact loss, RMSprop from
    $\pi_{\mathrm{ref}}$. The dashed line is no training. It is the distance from $\pi^*$ at which `ds.solve` finds
    the policy where the expected gradient vanishes.

    **Predict.** Which objectives have no dashed line? And does a curve that has not reached its line need more steps,
    a larger learning rate, or a smaller one?
    """)
    return


@app.cell
def _():
    objective = mo.ui.dropdown(
        {
            "DPO": ds.objective("dpo", beta=1.0),
            "DPO with β = 2": ds.objective("dpo", beta=2.0),
            "SLiC": ds.objective("slic", delta=1.0, lam=0.1),
            "ORPO": ds.objective("orpo", lam=0.1),
            "SimPO": ds.objective("simpo", beta=2.0, gamma=0.5),
            "Cal-DPO": ds.objective("cal_dpo", beta=0.1),
            "IPO": ds.objective("ipo", tau=0.5),
        },
        value="SimPO",
        label="objective",
    )
    rate = slider("learning rate", geometrically(0.001, 0.1, 21), 0.02)
    steps = slider("training steps", range(25, 401, 25), 200)
    mo.vstack([objective, rate, steps])
    return objective, rate, steps


@app.cell
def _(objective):
    problem = ds.Problem.from_temperature(num_classes=16, tau=4.0, seed=42)
    loss = objective.value
    end = ds.solve(problem, loss, starts=1).policy  # where the expected gradient vanishes
    bias = float(ds.js(problem.target, end))
    towards_end = ds.Problem(  # the same pairs: only what the policy is compared with differs
        reference=problem.reference, target=end, chosen=problem.chosen, rejected=problem.rejected
    )
    return bias, end, loss, problem, towards_end


@app.cell
def _(bias, loss, objective, problem, rate, steps, towards_end):
    settings = {
        "steps": steps.value,
        "learning_rate": rate.value,
        "record_every": steps.value // 25,
        "metrics": ("js_target",),
        "dtype": "float64",
    }
    _histories = ds.train_many([(problem, loss), (towards_end, loss)], mode="population", **settings)
    at = _histories[0].frame["step"].to_numpy()
    to_target, to_end = (history.metrics["js_target"] for history in _histories)
    policy = _histories[0].policy

    def _draw(axis):
        shown = visible(to_target)
        points = pd.DataFrame({"series": loss.name, "x": at, "mean": shown, "lo": shown, "hi": shown})
        draw_objectives(axis, points)
        draw_levels(axis, pd.DataFrame({"series": [loss.name], "mean": [bias]}))
        decades(axis, -8, 0)
        axis.set(xlabel="training steps", ylabel="JS(π*, π), nats")
        label_ends(axis)

    if to_end[-1] > max(bias, 1e-6) / 10:
        verdict = "so far it is on its way: slow, or unsettled by too large a learning rate"
    elif bias > 1e-9:
        verdict = "it has arrived, and not at π*: biased, and no further step helps"
    else:
        verdict = "it has arrived, at π*"
    mo.vstack(
        [
            figure(
                _draw, "The distance to the target during training, and the dashed line to which it leads.", right=0.84
            ),
            mo.md(
                f"After {steps.value} steps at learning rate {rate.value:g} {objective.selected_key} is "
                f"{short(to_target[-1])} nats from π*, and its end is {short(bias)} from it; {verdict}."
            ),
            claims(f"x.stationary-{loss.name}", "did.fig-7"),
        ]
    )
    return at, policy, settings, to_end, to_target, verdict


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 2. Biased, or only slow?

    The same run, measured twice: from $\pi^*$, and from the objective's own end.

    **Predict.** For SimPO, which of the two curves keeps falling? And what does a large learning rate do to it?
    """)
    return


@app.cell
def _(rate, steps):
    mo.vstack([rate, steps])
    return


@app.cell
def _(at, objective, rate, to_end, to_target):
    def _draw(axis):
        decades(axis, -8, 0)
        axis.plot(at, visible(to_target), color=BLUE, label="to π*")
        axis.plot(at, visible(to_end), color=ORANGE, linestyle="--", label="to its end")
        axis.set(xlabel="training steps", ylabel="JS, nats", xlim=(0, at[-1]))
        label_ends(axis)

    mo.vstack(
        [
            figure(_draw, "Two curves: the distance to the target and that to the objective's own end.", right=0.84),
            mo.md(
                f"At learning rate {rate.value:g} {objective.selected_key} is {short(to_end[-1])} nats from its own "
                f"end, which more training can remove, and {short(to_target[-1])} from π*, which it may not."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 3. Pairs that are drawn

    Real training sees a batch of drawn pairs at each step, not the exact loss.

    **Predict.** Does a larger batch bring the run nearer to its *end*, or nearer to $\pi^*$?
    """)
    return


@app.cell
def _():
    batch = slider("pairs in a batch", [2**n for n in range(2, 13)], 64)
    mo.vstack([batch])
    return (batch,)


@app.cell
def _(at, batch, loss, settings, to_end, towards_end):
    _history = ds.train(towards_end, loss, batch_size=batch.value, seed=1, **settings)
    drawn = _history.metrics["js_target"]
    late = float(drawn[-len(drawn) // 4 :].mean())  # over the last quarter of the run

    def _draw(axis):
        decades(axis, -8, 0)
        axis.plot(at, visible(drawn), color=BLACK, label="drawn pairs")
        axis.plot(at, visible(to_end), color=ORANGE, linestyle="--", label="exact loss")
        axis.set(xlabel="training steps", ylabel="JS(end, π), nats", xlim=(0, at[-1]))
        label_ends(axis)

    mo.vstack(
        [
            figure(_draw, "Distance to the end on drawn pairs, which levels off, and with the exact loss.", right=0.8),
            mo.md(
                f"With {batch.value} pairs a step the run stays {short(late)} nats from its end (mean of the last "
                f"quarter), where the exact loss comes to {short(to_end[-1])}: the difference is what drawing costs."
            ),
        ]
    )
    return drawn, late


if __name__ == "__main__":
    app.run()
