"""Lesson 6: the entropy of the DID, reinforcing and smoothing, displacement, and what became of Claim 4.1."""

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, evenly, geometrically

SHARPENING = geometrically(0.2, 5.0, 65)


def reinforce(tau: float) -> View:
    def at(tau):
        return float(ds.entropy(ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42).did))

    start = float(ds.entropy(ds.Problem.from_temperature(num_classes=32, seed=42).reference))
    kind = "reinforces" if tau < 1 else "smooths" if tau > 1 else "does nothing"
    side = "below" if at(tau) < start - 1e-9 else "above" if at(tau) > start + 1e-9 else "equal to"
    return View(
        series={"did": [at(t) for t in np.geomspace(0.2, 5, 65)], "start": [start], "now": [tau, at(tau)]},
        numbers={"tau": tau, "kind": kind, "did": at(tau), "side": side, "start": start},
    )


def smooth(tau: float) -> View:
    counterexample = ds.CLAIMS["did.claim-4.1-smooth"].counterexample or {}
    reference = ds.Policy.from_probs(counterexample["reference"])

    def information(tau):
        return ds.did(ds.Policy.from_logits(reference.log_probs / tau), reference)

    q, start = information(tau), float(ds.entropy(reference))
    side = "below" if ds.entropy(q) < start else "above"
    return View(
        series={
            "did": [float(ds.entropy(information(t))) for t in np.geomspace(1, 20, 49)],
            "start": [start],
            "now": [tau, float(ds.entropy(q))],
        },
        numbers={"tau": tau, "first": q.probs[0], "did": float(ds.entropy(q)), "side": side, "start": start},
    )


def size(scale: float) -> View:
    reference = ds.Problem.from_temperature(num_classes=32, seed=42).reference
    direction = np.random.default_rng(3).normal(size=32)
    direction = direction / np.ptp(direction)  # the range of scale·direction is scale

    def loss(scale):
        policy = ds.Policy.from_logits(reference.log_probs + scale * direction)
        return float(np.log(32) - ds.entropy(ds.did(policy, reference)))

    room = float(np.log(32) - ds.entropy(reference))
    grid = np.linspace(0, 5, 51)
    return View(
        series={
            "loss": [loss(r) for r in grid],
            "bound": grid**2 / 8,
            "room": [room],
            "now": [scale, loss(scale)],
        },
        numbers={"range": scale, "loss": loss(scale), "bound": scale**2 / 8, "room": room},
    )


def displacement(tau: float) -> View:
    def at(tau):
        problem = ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42)
        end = ds.dpo_optimum(problem, beta=1.0)  # where DPO ends: the target
        chosen = np.sum(problem.chosen.probs * (end.log_probs - problem.reference.log_probs))
        return float(chosen), float(ds.entropy(problem.did) - ds.entropy(problem.reference))

    chosen, excess = zip(*[at(t) for t in np.geomspace(0.3, 5, 57)], strict=True)
    return View(
        series={"chosen": chosen, "excess": excess, "zero": [0.0], "now": [tau, at(tau)[0]], "then": [tau, at(tau)[1]]},
        numbers={"tau": tau, "chosen": at(tau)[0], "excess": at(tau)[1]},
    )


def _counterexample() -> list[float]:
    """Return the reference of the ledger's counterexample to the second half of Claim 4.1."""
    return (ds.CLAIMS["did.claim-4.1-smooth"].counterexample or {})["reference"]


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    problem = ds.Problem.from_temperature(num_classes=32, seed=42)
    log_ref = np.sort(problem.reference.log_probs)[::-1].tolist()
    direction = np.random.default_rng(3).normal(size=32)
    by_size = {"log_ref": problem.reference.log_probs.tolist(), "direction": (direction / np.ptp(direction)).tolist()}
    return (
        _reinforce({"log_ref": log_ref, "at": np.geomspace(0.2, 5, 65).tolist()}),
        _smooth({"reference": _counterexample(), "at": np.geomspace(1, 20, 49).tolist()}),
        _size(by_size | {"at": np.linspace(0, 5, 51).tolist()}),
        _displacement({"log_ref": log_ref, "at": np.geomspace(0.3, 5, 57).tolist()}),
    )


def _reinforce(constants: dict) -> Step:
    return Step(
        name="reinforce",
        title="Does reinforcing mean information of low entropy?",
        text="""
        Some updates concentrate the policy on what it does already: they *reinforce*. Others spread it: they *smooth*.
        The paper's Claim 4.1 says that the entropy of the DID tells which. Reinforcing goes with $H(q) < H(\\piref)$,
        smoothing with $H(q) > H(\\piref)$.

        We can check. Take the temperature family: $\\tau < 1$ reinforces, $\\tau > 1$ smooths.
        """,
        formula=r"\pi \text{ reinforces } \piref \;\Rightarrow\; H(q_{\pi/\piref}) < H(\piref)",
        source="Differential Information paper, Claim 4.1, first half, as printed",
        predict="Start at $\\tau = 1$, where $q$ is uniform, and reinforce a little. Is $H(q)$ below $H(\\piref)$ at once?",
        control=Control(
            label="temperature τ",
            values=SHARPENING,
            start=0.8,
            presets={"τ = 0.4": 0.4, "the boundary, τ = 0.5": 0.5, "a little, τ = 0.8": 0.8, "smoothing, τ = 2": 2.0},
        ),
        chart=Chart(
            title="Entropy of the DID along the temperature family",
            summary="The curve has its maximum, log 32, at τ = 1, falls steeply to the left and gently to the right. It crosses the dashed line, the entropy of the reference, at τ = 0.5 exactly; between 0.5 and 1 it lies above.",
            x=Axis(label="temperature τ", low=0.2, high=5, ticks=(0.2, 0.5, 1, 2, 5), log=True),
            y=Axis(label="entropy, nats", low=0, high=4, ticks=(0, 1, 2, 3, 4)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="start", kind="level", colour="ink", label="H(π_ref)", dash="5 4"),
                Mark(name="did", kind="line", colour="green", label="H(q)", label_at=7, side="right"),
                Mark(name="now", kind="point", colour="green"),
            ),
        ),
        model=reinforce,
        constants=constants,
        sentence="At τ = {tau:2} the update {kind}; H(q) = {did} is {side} $H(\\piref)$ = {start} nats.",
        check=Question(
            text="For which reinforcing temperatures does the claim fail?",
            options=("For none.", "For $\\tau < \\tfrac12$.", "For $\\tfrac12 \\le \\tau < 1$."),
            answer=2,
            why="At $\\tau = \\tfrac12$ the DID *is* the reference, and the two entropies are equal. Nearer to 1 the update is small, and the DID of a small update is nearly uniform.",
        ),
        claims=("did.claim-4.1-reinforce", "x.temperature-entropy"),
        notes=Notes(
            minutes=6,
            ask=(
                "What is q at τ = 1? And at τ = ½? (Uniform; the reference.)",
                "What would a proof of the claim have to show at small updates?",
            ),
            wrong=(
                "“The claim is in a paper, so it holds.” The ledger's counterexample is one line long.",
                "“It fails only by rounding.” At τ = 0.8 the gap is a large part of the whole range.",
            ),
        ),
    )


def _smooth(constants: dict) -> Step:
    shares = ", ".join(f"{value:g}" for value in constants["reference"])
    return Step(
        name="smooth",
        title="Smoothing may carry information of low entropy",
        text=f"""
        The other half of the claim: smoothing goes with $H(q) > H(\\piref)$. Here is the ledger's counterexample, three
        responses with $\\piref = ({shares})$.

        Smoothing raises what the reference gives seldom. If there is *one* such response, the ratio $\\pi/\\piref$
        concentrates on it, and the DID with it.
        """,
        formula=r"\pi \text{ smooths } \piref \;\Rightarrow\; H(q_{\pi/\piref}) > H(\piref)",
        source="Differential Information paper, Claim 4.1, second half, as printed",
        predict="As $\\tau \\to \\infty$ the target becomes uniform. What does $q$ become?",
        control=Control(
            label="temperature τ",
            values=geometrically(1.0, 20.0, 49),
            start=4.0,
            presets={"a little, τ = 1.5": 1.5, "τ = 4": 4.0, "nearly uniform, τ = 20": 20.0},
        ),
        chart=Chart(
            title="Entropy of the DID while the target is smoothed",
            summary="The curve starts at log 3 at τ = 1 and falls. It crosses the dashed line, the entropy of the reference, before τ = 4 and stays below it.",
            x=Axis(label="temperature τ", low=1, high=20, ticks=(1, 2, 5, 10, 20), log=True),
            y=Axis(label="entropy, nats", low=0, high=1.2, ticks=(0, 0.2, 0.4, 0.6, 0.8, 1, 1.2)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="start", kind="level", colour="ink", label="H(π_ref)", dash="5 4"),
                Mark(name="did", kind="line", colour="green", label="H(q)"),
                Mark(name="now", kind="point", colour="green"),
            ),
        ),
        model=smooth,
        constants=constants,
        sentence="At τ = {tau:2} the DID gives the rare response {first}; H(q) = {did} is {side} $H(\\piref)$ = {start} nats.",
        check=Question(
            text="Can the counterexample be built with two responses?",
            options=("Yes, with a rarer response.", "No."),
            answer=1,
            why="With $K = 2$ the odds of $q$ lie between those of $1/\\piref$ and even ones, so that $H(q) \\ge H(\\piref)$. That is one of the two conditions under which this half holds.",
        ),
        claims=("did.claim-4.1-smooth", "x.small-update-entropy"),
        notes=Notes(
            minutes=6,
            ask=(
                "What is the limit of q for τ → ∞? (1/π_ref, normalised.)",
                "How would you *search* for a counterexample?",
            ),
            wrong=("“One counterexample is a corner case.” It shows which condition is missing.",),
        ),
    )


def _size(constants: dict) -> Step:
    return Step(
        name="size",
        title="First of all, the entropy tells the size of an update",
        text="""
        What does hold? Let $R$ be the range of $\\log \\pi/\\piref$: how far apart the update moves two responses at most.
        Then $H(q)$ is at most $R^2/8$ below $\\log K$, *in whatever direction* the policy moved.

        So a small update has information of high entropy, a reinforcing one too. Only beyond this bound can the entropy
        say what kind of update it was.
        """,
        formula=r"\log K - H(q) \le \frac{R^2}{8}, \qquad R = \max_y \log \frac{\pi}{\piref} - \min_y \log \frac{\pi}{\piref}",
        source="x.small-update-entropy, the corrected form of Claim 4.1",
        predict="Below the dashed line $H(q) > H(\\piref)$. A random update of range 1: is it below?",
        control=Control(
            label="range R of log π/π_ref, nats",
            values=evenly(0, 5, 51),
            start=1.0,
            presets={"R = 0.5": 0.5, "R = 1": 1.0, "R = 4": 4.0},
        ),
        chart=Chart(
            title="How far H(q) is below log 32, for an update in a random direction",
            summary="Two curves rise from 0: the bound R²/8, and below it the true value. The dashed line is the value at which H(q) would equal H(π_ref).",
            x=Axis(label="range R, nats", low=0, high=5, ticks=(0, 1, 2, 3, 4, 5)),
            y=Axis(label="log 32 − H(q), nats", low=0, high=1.2, ticks=(0, 0.2, 0.4, 0.6, 0.8, 1, 1.2)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="room", kind="level", colour="ink", label="H(π_ref)", dash="5 4"),
                Mark(name="bound", kind="line", colour="orange", label="bound R²/8", label_at=27, side="right"),
                Mark(name="loss", kind="line", colour="green", label="this update"),
                Mark(name="now", kind="point", colour="green"),
            ),
        ),
        model=size,
        constants=constants,
        sentence="With a range of {range:1} nats H(q) is {loss} below log 32, at most {bound} by the bound; to pass $H(\\piref)$ it takes {room}.",
        check=Question(
            text="Someone trains for ten steps, estimates $H(q) > H(\\piref)$ and concludes that the data smooth. What is wrong?",
            options=(
                "Nothing.",
                "After ten steps every update looks so.",
                "Entropy cannot be estimated.",
            ),
            answer=1,
            why="The range of ten steps is small, and the bound then says $H(q) > H(\\piref)$ before any data are seen.",
        ),
        claims=("x.small-update-entropy",),
        notes=Notes(
            minutes=6,
            ask=("Where does the 8 come from? (A number in a range R has a variance of at most R²/4.)",),
            wrong=("“High entropy of the DID means smoothing.” First it means: small.",),
        ),
    )


def _displacement(constants: dict) -> Step:
    low, high = displacement(0.4).numbers, displacement(2.0).numbers
    return Step(
        name="displacement",
        title="Chosen responses become less likely, whatever the entropy",
        text="""
        During DPO the log-likelihood of *chosen* responses often falls: likelihood displacement. The paper takes this for
        a sign of information of high entropy.

        In its own construction $y_w \\sim \\piref$. Then the mean log-likelihood is $-H(\\piref) - \\mathrm{KL}(\\piref \\|
        \\pi)$. It is largest where training starts. Every objective lowers it, and every update, sharp or smooth.
        """,
        formula=r"E_{y_w \sim \piref}[\log \pi(y_w)] = -H(\piref) - \mathrm{KL}(\piref \| \pi) \le -H(\piref)",
        source="x.displacement-did; compare Differential Information paper, Section 4.2",
        predict="For $\\tau = 0.4$ the DID has *low* entropy. Does the chosen log-likelihood rise?",
        control=Control(
            label="temperature τ of the target",
            values=geometrically(0.3, 5.0, 57),
            start=0.4,
            presets={"low entropy, τ = 0.4": 0.4, "no update, τ = 1": 1.0, "high entropy, τ = 2": 2.0},
        ),
        chart=Chart(
            title="At DPO's end: change of the chosen log-likelihood, and H(q) − H(π_ref)",
            summary="The change of the chosen log-likelihood is 0 at τ = 1 and negative on both sides. The difference of entropies is negative below τ = 0.5 and positive above: its sign does not follow.",
            x=Axis(label="temperature τ of the target", low=0.3, high=5, ticks=(0.3, 0.5, 1, 2, 5), log=True),
            y=Axis(label="nats", low=-2, high=1, ticks=(-2, -1.5, -1, -0.5, 0, 0.5, 1)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="zero", kind="level", colour="ink"),
                Mark(name="excess", kind="line", colour="green", label="H(q) − H(π_ref)", label_at=34),
                Mark(name="chosen", kind="line", colour="blue", label="chosen log-likelihood", label_at=41),
                Mark(name="now", kind="point", colour="blue"),
                Mark(name="then", kind="point", colour="green"),
            ),
        ),
        model=displacement,
        constants=constants,
        sentence="At τ = {tau:2} chosen responses change by {chosen} nats on average, and $H(q) - H(\\piref)$ is {excess}.",
        check=Question(
            text=f"At τ = 0.4 the chosen log-likelihood falls by {-low['chosen']:.2f} nats, at τ = 2 by {-high['chosen']:.2f}, and $H(q) - H(\\piref)$ is ${low['excess']:.2f}$ and ${high['excess']:.2f}$. What decides in general whether it falls at first?",
            options=(
                "The entropy of the DID.",
                "Where chosen responses lie relative to the reference and to rejected ones.",
                "The size of β.",
            ),
            answer=1,
            why="For chosen responses from any $w$ the sign at the start is that of $\\langle w - \\piref, w - \\pil \\rangle$: `x.lld-sign`.",
        ),
        claims=("did.lld", "x.displacement-did", "x.lld-sign"),
        notes=Notes(
            minutes=7,
            ask=("Which policy maximises the likelihood of responses drawn from π_ref?", "Is displacement bad here?"),
            wrong=(
                "“A falling chosen likelihood means that DPO unlearns.” Here it falls on the way to the truth.",
                "“Then likelihood terms cure it.” In this construction nothing can: x.displacement-did.",
            ),
        ),
    )


LESSON = Lesson(
    number=6,
    slug="entropy",
    title="Entropy of information, and what became of Claim 4.1",
    aim="Test a printed claim by computation, and say what does hold: for which updates, with which proof.",
    minutes=25,
    build=build,
)
