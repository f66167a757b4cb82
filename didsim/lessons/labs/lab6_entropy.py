"""Lab of lesson 6: the entropy of the DID, Claim 4.1, and displacement."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Lab: entropy and displacement")

with app.setup:
    import marimo as mo
    import numpy as np

    import didsim as ds
    from didsim.lessons import evenly, geometrically
    from didsim.lessons.labs.tools import BLACK, BLUE, GREEN, VERMILION, claims, figure, short, slider
    from didsim.plotting import label_ends

    def information(reference, tau):
        """Return the DID from references [..., K] to their targets at temperatures τ, one or one for each."""
        return ds.did(ds.Policy.from_logits(reference.log_probs / tau), reference)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Entropy of the DID, Claim 4.1, and displacement

    *The lab of lesson 6, with the library live: every number is computed when you move a slider. Predict, move the
    slider, read one sentence.*

    ## 1. Does the entropy tell reinforcing from smoothing?

    Claim 4.1 of the paper: an update that *reinforces* $\pi_{\mathrm{ref}}$ has $H(q) < H(\pi_{\mathrm{ref}})$, one
    that *smooths* it has $H(q) > H(\pi_{\mathrm{ref}})$. In the temperature family $\tau < 1$ reinforces, $\tau >
    1$ smooths. Two of the references are counterexamples that the ledger keeps.

    **Predict.** At $\tau = 1$ nothing has been learnt and $q$ is uniform. Reinforce a little: $\tau = 0.8$. On
    which side of the dashed line is $H(q)$?
    """)
    return


@app.cell
def _():
    reference = mo.ui.dropdown(
        {
            "32 classes, Gaussian logits": ds.Problem.from_temperature(num_classes=32, seed=42).reference,
            **{
                f"counterexample of {name}": ds.Policy.from_probs((ds.CLAIMS[name].counterexample or {})["reference"])
                for name in ("did.claim-4.1-reinforce", "did.claim-4.1-smooth")
            },
        },
        value="32 classes, Gaussian logits",
        label="reference",
    )
    tau = slider("temperature τ", geometrically(0.2, 20, 61), 0.8)
    mo.vstack([reference, tau])
    return reference, tau


@app.cell
def _(reference, tau):
    start, learnt = (float(ds.entropy(p)) for p in (reference.value, information(reference.value, tau.value)))
    _grid = np.geomspace(0.2, 20, 81)
    entropies = ds.entropy(information(reference.value, _grid[:, None]))

    def _draw(axis):
        axis.set_xscale("log")
        axis.plot(_grid, np.full(len(_grid), start), color=BLACK, linestyle="--", label="H(π_ref)")
        axis.plot(_grid, entropies, color=GREEN, label="H(q)")
        axis.plot(tau.value, learnt, "o", color=GREEN, label="_now")
        axis.set_xticks([0.2, 0.5, 1, 2, 5, 20], ["0.2", "0.5", "1", "2", "5", "20"])
        axis.minorticks_off()
        axis.set(xlabel="temperature τ", ylabel="entropy, nats", xlim=(0.19, 21), ylim=(0, 3.7 if start > 2 else 1.3))
        label_ends(axis)

    kind = "does nothing" if tau.value == 1 else "reinforces" if tau.value < 1 else "smooths"
    fails = learnt >= start if tau.value < 1 else learnt <= start
    _says = "Claim 4.1 says nothing" if tau.value == 1 else f"Claim 4.1 {'fails' if fails else 'is right'}"
    mo.vstack(
        [
            figure(_draw, "H(q) against τ: largest at τ = 1, falling on both sides; dashed: H(π_ref).", right=0.83),
            mo.md(
                f"At τ = {tau.value:g} the update {kind}; H(q) is {short(learnt)} and H(π_ref) {short(start)} nats: "
                f"{_says} here."
            ),
            claims("did.claim-4.1-reinforce", "did.claim-4.1-smooth"),
        ]
    )
    return entropies, fails, kind, learnt, start


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 2. How often does it fail?

    Not one reference but four hundred, with Gaussian logits of your spread, at every $\tau$.

    **Predict.** For which $\tau$ does the claim fail for *all* of them, and for which for *none*? Which part of the
    curve depends on the references?
    """)
    return


@app.cell
def _():
    spread = slider("spread of the reference's logits", geometrically(0.1, 4, 31), 1.0)
    size = slider("number of classes K", (2, 3, 4, 8, 16, 32), 3)
    mo.vstack([spread, size])
    return size, spread


@app.cell
def _(size, spread):
    drawn = ds.Policy.from_logits(spread.value * np.random.default_rng(0).normal(size=(400, size.value)))
    taus = np.geomspace(0.2, 20, 40)  # none of them is ½ or 1
    _excess = ds.entropy(information(drawn, taus[:, None, None])) - ds.entropy(drawn)
    share = np.mean(np.where(taus[:, None] < 1, _excess >= 0, _excess <= 0), axis=1)

    def _draw(axis):
        axis.set_xscale("log")
        axis.plot(taus, share, ".-", color=VERMILION)
        axis.set_xticks([0.2, 0.5, 1, 2, 5, 20], ["0.2", "0.5", "1", "2", "5", "20"])
        axis.minorticks_off()
        axis.set(xlabel="temperature τ", ylabel="share of references", ylim=(-0.03, 1.03))

    mo.vstack(
        [
            figure(
                _draw, "Share of references for which the claim fails: 0 below τ = ½, 1 from there to 1, then small."
            ),
            mo.md(
                f"With {size.value} classes and a spread of {spread.value:g} the claim fails for "
                f"{short(100 * share[taus < 0.5].max())}% of the references below τ = ½, for "
                f"{short(100 * share[(taus > 0.5) & (taus < 1)].min())}% between ½ and 1, and for "
                f"{short(100 * share[-1])}% at τ = 20."
            ),
            claims("x.temperature-entropy", "x.small-update-entropy"),
        ]
    )
    return drawn, share, taus


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 3. What makes chosen responses less likely?

    During DPO the likelihood of chosen responses often falls. The paper takes this for a sign of a DID of high
    entropy. In its construction chosen responses come from $\pi_{\mathrm{ref}}$ itself. Here a share $\lambda$ of
    them comes from the target.

    **Predict.** At $\lambda = 0$, is there a $\tau$, sharp or smooth, at which the chosen likelihood rises? And at
    $\lambda = 1$?
    """)
    return


@app.cell
def _(tau):
    mo.vstack([tau])
    return


@app.cell
def _():
    lam = slider("share λ of chosen responses from the target", evenly(0, 1, 21), 0.0)
    mo.vstack([lam])
    return (lam,)


@app.cell
def _(lam, tau):
    _world = ds.Problem.from_temperature(num_classes=8, tau=tau.value, seed=42)
    _mixed = (1 - lam.value) * _world.reference.probs + lam.value * _world.target.probs
    problem = ds.Problem(
        reference=_world.reference,
        target=_world.target,
        rejected=_world.rejected,
        chosen=ds.Policy.from_probs(_mixed),
    )
    history = ds.train(
        problem,
        ds.objective("dpo", beta=1.0),
        mode="population",
        optimiser="sgd",
        learning_rate=4.0,
        clip=None,
        steps=100,
        record_every=4,
        dtype="float64",
        metrics=("log_pi_chosen", "log_pi_rejected"),
    )
    chosen, rejected = (history.metrics[name] - history.metrics[name][0] for name in history.metrics)
    excess = float(ds.entropy(problem.did) - ds.entropy(problem.reference))
    away = problem.chosen.probs - problem.reference.probs
    sign = float(away @ (problem.chosen.probs - problem.rejected.probs))  # of the change at the start

    def _draw(axis):
        steps = history.frame["step"]
        axis.plot(steps, np.zeros(len(steps)), color=BLACK, linewidth=0.6, label="_start")
        axis.plot(steps, chosen, color=BLUE, label="chosen")
        axis.plot(steps, rejected, color=VERMILION, label="rejected")
        axis.set(xlabel="training steps", ylabel="change of log-likelihood, nats", ylim=(-1.6, 0.8))
        label_ends(axis)

    _turn = "is level" if abs(sign) < 1e-12 else "rises" if sign > 0 else "falls"
    mo.vstack(
        [
            figure(
                _draw, "Change of the mean log-likelihood of chosen and rejected responses in training.", right=0.83
            ),
            mo.md(
                f"At λ = {lam.value:g} and τ = {tau.value:g} the chosen likelihood {_turn} at first and has changed by "
                f"{short(chosen[-1])} nats in the end, while H(q) − H(π_ref) is {short(excess)}: what counts is not "
                "the entropy but where chosen responses lie."
            ),
            claims("did.lld", "x.displacement-did", "x.lld-sign"),
        ]
    )
    return chosen, excess, history, problem, rejected, sign


if __name__ == "__main__":
    app.run()
