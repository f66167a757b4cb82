"""Lab of lesson 4: the DID construction, and what it recovers."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Lab: the DID construction")

with app.setup:
    import marimo as mo
    import numpy as np

    import didsim as ds
    from didsim.lessons import evenly, geometrically
    from didsim.lessons.labs.tools import BLACK, BLUE, GREEN, ORANGE, VERMILION, claims, figure, short, slider
    from didsim.plotting import label_ends


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # The DID construction, and what it recovers

    *The lab of lesson 4, with the library live: every number is computed when you move a slider. Predict, move the
    slider, read one sentence.*

    ## 1. Pairs that encode an update

    The target is the reference at temperature $\tau$: $\pi^* \propto \pi_{\mathrm{ref}}^{1/\tau}$. Chosen responses
    come from $\pi_{\mathrm{ref}}$, rejected ones from the *ideal rejected distribution* $\pi_l \propto
    \pi_{\mathrm{ref}} (\pi_{\mathrm{ref}}/\pi^*)^{\beta}$.

    **Predict.** For $\tau = 4$ the target is flatter than the reference. Is $\pi_l$ flatter too, or steeper? What
    does $\beta \to 0$ do to it?
    """)
    return


@app.cell
def _():
    tau = slider("temperature τ of the target", geometrically(0.25, 8, 41), 4.0)
    beta = slider("exponent β of the pairs", geometrically(0.1, 3, 35), 1.0)
    classes = slider("number of classes K", (2, 4, 8, 16, 32, 64), 32)
    mo.vstack([tau, beta, classes])
    return beta, classes, tau


@app.cell
def _(beta, classes, tau):
    _world = ds.Problem.from_temperature(num_classes=classes.value, tau=tau.value, seed=42)
    problem = ds.Problem.from_policies(_world.reference, _world.target, beta=beta.value)
    behind = ds.did(problem.reference, problem.rejected)  # from π_l to π_ref
    ahead = problem.did  # from π_ref to π*
    order = np.argsort(-problem.reference.probs)  # most likely first
    rank = np.arange(1, classes.value + 1)
    return ahead, behind, order, problem, rank


@app.cell
def _(ahead, behind, beta, order, problem, rank, tau):
    span = {  # from the least to the most likely class, nats
        name: float(np.ptp(getattr(problem, name).log_probs)) for name in ("target", "reference", "rejected")
    }
    exponent = ds.power_law(behind, ahead).exponent if np.ptp(ahead.log_probs) > 1e-9 else None  # of a flat q: any

    def _draw(axis):
        for name, colour, label in (
            ("rejected", VERMILION, "rejected π_l"),
            ("target", GREEN, "target π*"),
            ("reference", BLACK, "π_ref"),
        ):
            axis.plot(rank, getattr(problem, name).log_probs[order], ".-", color=colour, label=label)
        axis.set(xlabel="class, most likely under π_ref first", ylabel="log-probability, nats", ylim=(-14, 0.3))
        label_ends(axis)

    mo.vstack(
        [
            figure(_draw, "Log-probabilities of reference, target and rejected policy over the classes.", right=0.8),
            mo.md(
                f"At τ = {tau.value:g} and β = {beta.value:g} the target spans {short(span['target'])} nats, the "
                f"reference {short(span['reference'])} and π_l {short(span['rejected'])}; the step behind is that "
                f"ahead to the power of {'anything, since nothing moves' if exponent is None else short(exponent)}."
            ),
            claims("did.thm-3.3"),
        ]
    )
    return exponent, span


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 2. What happens at the ends

    What the pairs have to say is a distribution too: the DID $q \propto \pi^*/\pi_{\mathrm{ref}}$.

    **Predict.** Where does $q$ go for $\tau \to \infty$, where is it at $\tau = 1$, and at $\tau = \frac12$? When
    are all pairs coin tosses?
    """)
    return


@app.cell
def _(beta, tau):
    mo.vstack([tau, beta])
    return


@app.cell
def _(ahead, beta, order, problem, rank, tau):
    information = float(ds.entropy(ahead))
    favourite = float(ahead.probs.max())
    surest = float(ds.preference_probabilities(problem.reference, problem.rejected).max())
    flattened = ds.did(np.full(len(rank), 1 / len(rank)), problem.reference)  # q for τ → ∞

    def _draw(axis):
        axis.bar(rank, ahead.probs[order], color=GREEN, label="q")
        axis.plot(rank, problem.reference.probs[order], ".", color=BLACK, label="π_ref: q at τ = ½")
        axis.plot(rank, flattened.probs[order], "x", color=ORANGE, label="∝ 1/π_ref: q for τ → ∞")
        axis.set(
            xlabel="class, most likely under π_ref first", ylabel="probability", ylim=(0, max(0.25, 1.1 * favourite))
        )
        axis.legend(loc="upper center")

    mo.vstack(
        [
            figure(_draw, "Bars of the DID over the classes, with two of its landmarks as dots and crosses."),
            mo.md(
                f"At τ = {tau.value:g} q gives its favourite class {short(favourite)}, and its entropy is "
                f"{short(information)} of at most {short(np.log(len(rank)))} nats; at β = {beta.value:g} the surest "
                f"pair is labelled the same way {short(100 * surest)} times of 100."
            ),
            claims("did.thm-3.2", "did.lem-D.1"),
        ]
    )
    return favourite, flattened, information, surest


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 3. Which reward recovers the target?

    Theorem 3.4 says: training on these pairs ends at $\pi^*$ *if and only if* the reward is $\beta \log
    \pi/\pi_{\mathrm{ref}} + C$. Try another one, $\alpha (\log \pi - \kappa \log \pi_{\mathrm{ref}})$, with $\alpha
    = \beta (1 - \tau)/(1 - \kappa\tau)$. DPO has $\kappa = 1$; $\kappa = 0$ leaves the reference out. Judge it by
    *two* targets: the one above, and another one, whose pairs encode it with the same $\beta$.

    **Predict.** For which $\kappa$ is the first target recovered, and for which are both?
    """)
    return


@app.cell
def _(tau):
    kappa = slider("share κ of the reference in the reward", evenly(0, 1, 41), 0.6)
    mo.vstack([kappa, tau])
    return (kappa,)


@app.cell
def _(beta, kappa, problem, tau):
    _logits = np.random.default_rng(7).normal(size=problem.num_classes)
    other = ds.Problem.from_policies(problem.reference, ds.Policy.from_logits(_logits), beta=beta.value)

    def scale(kappa):
        """Return α, or None where it would not be positive."""
        above, below = 1 - tau.value, 1 - kappa * tau.value
        return beta.value if kappa == 1 else beta.value * above / below if above * below > 1e-9 else None

    def distance(world, kappa):
        """Return how far from the target of a problem training with this reward ends."""
        alpha, prior = scale(kappa), ds.Policy.from_logits(kappa * problem.reference.log_probs)
        return np.nan if alpha is None else float(ds.js(world.target, ds.dpo_optimum(world, beta=alpha, prior=prior)))

    first, second = distance(problem, kappa.value), distance(other, kappa.value)

    def _draw(axis):
        grid = np.linspace(0, 1, 41)
        for world, now, colour, label in (
            (other, second, BLUE, "another target"),
            (problem, first, GREEN, "this target"),
        ):
            axis.plot(grid, [distance(world, k) for k in grid], color=colour, label=label)
            axis.plot(kappa.value, now, "o", color=colour)
        axis.set(
            xlabel="share κ of the reference", ylabel="JS(target, end), nats", xlim=(-0.02, 1.02), ylim=(-0.02, 0.5)
        )
        axis.legend(loc="upper right")

    _ends = "no positive α recovers this target"
    if scale(kappa.value) is not None:
        _ends = f"training ends {short(first)} nats from this target, and {short(second)} from another"
    mo.vstack(
        [
            figure(
                _draw, "Distance of the end from two targets against κ: from one it is 0, from the other only at 1."
            ),
            mo.md(
                f"At κ = {kappa.value:g} and τ = {tau.value:g} {_ends}. So “if” holds; “only if” fails for *one* "
                "target, and is right if one reward has to recover *every* target."
            ),
            claims("did.thm-3.4-if", "did.thm-3.4-only-if", "x.one-reward-for-all"),
        ]
    )
    return distance, first, other, scale, second


if __name__ == "__main__":
    app.run()
