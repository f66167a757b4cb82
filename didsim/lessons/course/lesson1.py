"""Lesson 1: softmax policies, entropy, KL and JS on 32 classes."""

import math

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, geometrically

TEMPERATURES = geometrically(0.1, 10.0, 41)

SHARES = (0.0, *geometrically(1e-12, 0.1, 34))


def temperature(tau: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42)  # target: softmax(θ_ref/τ)
    order = np.argsort(-problem.reference.probs)
    policy = problem.target.probs[order]
    return View(
        series={"reference": problem.reference.probs[order], "policy": policy},
        numbers={"largest": policy[0], "smallest": policy[-1]},
    )


def entropy(tau: float) -> View:
    def at(tau):
        return float(ds.entropy(ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42).target))

    return View(
        series={"entropy": [at(t) for t in np.geomspace(0.1, 10, 41)], "now": [tau, at(tau)], "most": [np.log(32)]},
        numbers={"entropy": at(tau), "gap": np.log(32) - at(tau), "count": np.exp(at(tau))},
    )


def divergence(tau: float) -> View:
    def at(tau):
        problem = ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42)
        return (
            float(ds.kl(problem.target, problem.reference)),
            float(ds.kl(problem.reference, problem.target)),
        )

    out, back = zip(*[at(t) for t in np.geomspace(0.1, 10, 41)], strict=True)
    return View(
        series={"out": out, "back": back, "out_now": [tau, at(tau)[0]], "back_now": [tau, at(tau)[1]]},
        numbers={"tau": tau, "out": at(tau)[0], "back": at(tau)[1]},
    )


def support(share: float) -> View:
    def at(share):
        p, q = [0.1, 0.9], [share, 1 - share]  # π gives the first of two responses 0.1, π′ gives it less and less
        return float(ds.kl(p, q)), float(ds.js(p, q)), float(ds.kl(q, p))

    kl, js, back = zip(*[at(s) for s in np.geomspace(1e-12, 0.1, 34)], strict=True)
    return View(
        series={"kl": kl, "js": js, "back": back, "kl_now": [share, at(share)[0]], "js_now": [share, at(share)[1]]},
        numbers={"share": share, "kl": at(share)[0], "js": at(share)[1], "back": at(share)[2]},
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    problem = ds.Problem.from_temperature(num_classes=32, tau=1.0, seed=42)
    logits = np.sort(problem.reference.log_probs)[::-1].tolist()
    places = np.geomspace(0.1, 10, 41).tolist()
    most, h = math.log(32), float(ds.entropy(problem.reference))
    return (
        _temperature(logits, h),
        _entropy({"logits": logits, "at": places}, most, h),
        _divergence({"logits": logits, "at": places}),
        _support({"at": np.geomspace(1e-12, 0.1, 34).tolist()}),
    )


def _temperature(logits: list[float], h: float) -> Step:
    return Step(
        name="temperature",
        title="A policy is a softmax of logits",
        text="""
        A language model gives every response a probability. We keep the mathematics and shrink the model: there are
        $K = 32$ responses, called classes, and the policy is a table of 32 logits $\\theta_i$. Everything about it can
        then be computed exactly.

        The reference policy $\\piref$ has logits drawn from a normal distribution, $\\theta_{\\mathrm{ref}}
        \\sim N(0, I)$. Dividing all of them by a *temperature* $\\tau$ gives another policy.
        """,
        formula=r"\pi_\theta(i) = \frac{e^{\theta_i}}{\sum_{j=1}^{K} e^{\theta_j}}, \qquad \theta = \theta_{\mathrm{ref}} / \tau",
        source="Differential Information paper, Section 3.5",
        predict="At $\\tau = 1$ the policy is $\\piref$. Which way does its largest probability move as "
        "$\\tau$ grows, and where does it end?",
        control=Control(
            label="temperature τ",
            values=geometrically(0.5, 10.0, 41),
            start=2.0,
            presets={"sharper, τ = 0.5": 0.5, "the reference, τ = 1": 1.0, "nearly uniform, τ = 10": 10.0},
        ),
        chart=Chart(
            title="Thirty-two classes, ordered by their probability under the reference",
            summary="Bars show the policy, dots the reference. At small τ one bar holds half of the mass; at large τ all "
            "bars have almost the same height.",
            x=Axis(label="class", low=0.3, high=32.7, ticks=(1, 8, 16, 24, 32)),
            y=Axis(label="probability", low=0.0, high=0.5, ticks=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
            at=tuple(range(1, 33)),
            marks=(
                Mark(name="policy", kind="bars", colour="blue", label="policy π", label_at=16),
                Mark(name="reference", kind="dots", colour="ink", label="π_ref", label_at=0, side="right"),
            ),
        ),
        model=temperature,
        constants={"logits": logits},
        sentence="The most likely class has probability {largest:4}, the least likely one {smallest:4}.",
        check=Question(
            text="All 32 logits are raised by 5. What happens to the policy?",
            options=(
                "It becomes more concentrated.",
                "Nothing.",
                "It becomes more even.",
            ),
            answer=1,
            why="The factor $e^5$ stands above and below the line and cancels. Only differences of logits count, which "
            "is why a reward that is raised by a constant changes no policy either.",
        ),
        notes=Notes(
            minutes=4,
            ask=(
                "How many numbers does it take to describe a policy on 32 classes? (31: a constant is free.)",
                "At which temperature is the policy greedy decoding? And at which one does it ignore the logits?",
            ),
            wrong=(
                "“τ = 1 is the uniform policy.” It is the reference; the uniform policy is the limit τ → ∞.",
                "“A higher temperature adds randomness to the logits.” It divides them; nothing is drawn.",
            ),
        ),
    )


def _entropy(constants: dict, most: float, h: float) -> Step:
    return Step(
        name="entropy",
        title="Entropy counts how many responses are in play",
        text="""
        The *entropy* of a policy says how uncertain we are about the response. It is 0 if one response is certain, and
        $\\log K$ if all are equally likely. With natural logarithms its unit is the nat. Its exponential reads as a
        number of responses: a policy with $e^H = 5$ is as uncertain as a fair choice among five.
        """,
        formula=r"H(\pi) = -\sum_i \pi(i) \log \pi(i), \qquad 0 \le H(\pi) \le \log K",
        source="Differential Information paper, Section 4",
        predict=f"The reference has an entropy of {h:.3f} nats, and $\\log 32$ is {most:.3f}. Is the curve steeper below "
        "$\\tau = 1$ or above?",
        control=Control(
            label="temperature τ",
            values=TEMPERATURES,
            start=1.0,
            presets={"τ = 0.2": 0.2, "the reference, τ = 1": 1.0, "τ = 10": 10.0},
        ),
        chart=Chart(
            title="Entropy against temperature",
            summary="The curve rises from nearly 0 at τ = 0.1, steeply up to about τ = 1, and then flattens towards the "
            "dashed line log 32.",
            x=Axis(
                label="temperature τ (equal ratios at equal distances)", low=0.1, high=10, ticks=(0.1, 1, 10), log=True
            ),
            y=Axis(label="entropy, nats", low=0, high=3.8, ticks=(0, 1, 2, 3)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="most", kind="level", colour="ink", label="log 32", dash="5 4"),
                Mark(name="entropy", kind="line", colour="blue", label="H(π)", label_at=17, side="right"),
                Mark(name="now", kind="point", colour="blue"),
            ),
        ),
        model=entropy,
        constants=constants,
        sentence="The entropy is {entropy} nats, {gap} below its largest value; it is that of a fair choice among {count:1} "
        "responses.",
        check=Question(
            text="A policy puts ½ on each of two responses and 0 on thirty. Its entropy is",
            options=("log 2", "½ log 2", "log 32 − log 2"),
            answer=0,
            why="Responses of probability 0 contribute nothing, since $p \\log p \\to 0$ as $p \\to 0$. What is left is a "
            "fair choice between two.",
        ),
        notes=Notes(
            minutes=5,
            ask=(
                "What is the entropy as τ → 0? Does it depend on the logits? (On ties only.)",
                "Why nats? (Derivatives of natural logarithms carry no factor log 2.)",
            ),
            wrong=(
                "“Entropy is linear in τ.” It is flat at both ends, and bounded.",
                "“Entropy measures quality.” It measures spread; a bad policy can have any entropy.",
            ),
        ),
    )


def _divergence(constants: dict) -> Step:
    return Step(
        name="divergence",
        title="KL looks from one side",
        text="""
        The *Kullback–Leibler divergence* compares two policies. It is 0 if they are equal and positive otherwise. But
        it is an average under its *first* argument, so the two directions weigh the same disagreement differently.

        In preference optimisation the penalty is $\\mathrm{KL}(\\pi \\| \\piref)$: the average is taken
        over what the policy itself says.
        """,
        formula=r"\mathrm{KL}(p \| q) = \sum_i p(i) \log \frac{p(i)}{q(i)}",
        source="the penalty of Rafailov et al. 2023, Eq. 3",
        predict="For small $\\tau$ the policy says almost always the same thing. Which of the two directions explodes?",
        control=Control(
            label="temperature τ",
            values=TEMPERATURES,
            start=0.5,
            presets={"sharp, τ = 0.2": 0.2, "equal, τ = 1": 1.0, "flat, τ = 10": 10.0},
        ),
        chart=Chart(
            title="Both directions between the reference and the policy at temperature τ",
            summary="Both curves touch 0 at τ = 1. To the left, KL(π_ref‖π) leaves the chart while KL(π‖π_ref) levels off "
            "below 2; to the right the two nearly coincide.",
            x=Axis(label="temperature τ", low=0.1, high=10, ticks=(0.1, 1, 10), log=True),
            y=Axis(label="nats", low=0, high=5, ticks=(0, 1, 2, 3, 4, 5)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="back", kind="line", colour="vermilion", label="KL(π_ref‖π)", label_at=8, side="right"),
                Mark(name="out", kind="line", colour="blue", label="KL(π‖π_ref)", label_at=2),
                Mark(name="back_now", kind="point", colour="vermilion"),
                Mark(name="out_now", kind="point", colour="blue"),
            ),
        ),
        model=divergence,
        constants=constants,
        sentence=r"At τ = {tau:2}, $\mathrm{KL}(\pi \| \piref)$ = {out} and $\mathrm{KL}(\piref \| \pi)$ = {back} nats.",
        check=Question(
            text="As $\\tau \\to 0$, what does $\\mathrm{KL}(\\pi \\| \\piref)$ tend to?",
            options=(
                "Infinity.",
                "$-\\log \\piref(y_1)$, with $y_1$ the most likely response.",
                "0.",
            ),
            answer=1,
            why="The policy becomes certain of $y_1$, and the sum has one term left, $1 \\cdot \\log (1/\\piref"
            "(y_1))$. A policy can be as greedy as it likes at a bounded price.",
        ),
        notes=Notes(
            minutes=6,
            ask=(
                "Which direction punishes a policy for never saying what the reference says?",
                "Both curves touch 0 at τ = 1 without crossing it. Why is the slope 0 there?",
            ),
            wrong=(
                "“KL is a distance.” It is not symmetric, and the triangle inequality fails.",
                "“The KL penalty keeps all responses of the reference alive.” KL(π‖π_ref) lets them die at a bounded price.",
            ),
        ),
    )


def _support(constants: dict) -> Step:
    return Step(
        name="support",
        title="JS stays finite where KL does not",
        text="""
        Take two responses. One policy gives the first of them a probability of 0.1. The other gives it a smaller and
        smaller share, and at last none. Then $\\mathrm{KL}(p \\| q)$ is infinite: $q$ excludes what $p$ says.

        The *Jensen–Shannon divergence* compares both with their average, which excludes nothing that either says. It
        is symmetric, and never larger than $\\log 2$. That is why the figures of this laboratory measure distance to
        the target in JS.
        """,
        formula=r"\mathrm{JS}(p, q) = \tfrac12 \mathrm{KL}(p \| m) + \tfrac12 \mathrm{KL}(q \| m), \quad m = \tfrac12 (p + q)",
        source="the distance of Figure 7 of the Differential Information paper",
        predict="Each factor of ten in the share: does KL grow by a factor, or by a constant?",
        control=Control(
            label="share of the first response under q",
            values=SHARES,
            start=1e-4,
            digits=4,
            presets={"equal": 0.1, "one in a million": 1e-6, "never": 0.0},
        ),
        chart=Chart(
            title="Divergences as q forgets a response that p says one time in ten",
            summary="From right to left KL(p‖q) rises without end, by the same amount for each factor of ten. JS and "
            "KL(q‖p) level off close to 0.",
            x=Axis(
                label="share of the first response under q",
                low=1e-12,
                high=0.1,
                ticks=(1e-12, 1e-9, 1e-6, 1e-3, 0.1),
                log=True,
            ),
            y=Axis(label="nats", low=0, high=2.6, ticks=(0, 0.5, 1, 1.5, 2, 2.5)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="kl", kind="line", colour="vermilion", label="KL(p‖q)", label_at=14, side="right"),
                Mark(name="back", kind="line", colour="orange", label="KL(q‖p)", label_at=7),
                Mark(name="js", kind="line", colour="green"),
                Mark(name="kl_now", kind="point", colour="vermilion"),
                Mark(name="js_now", kind="point", colour="green", label="JS", label_at=0),
            ),
        ),
        model=support,
        constants=constants,
        sentence="KL(p‖q) = {kl}, KL(q‖p) = {back} and JS(p, q) = {js} nats.",
        check=Question(
            text="What is the largest JS that two policies can have?",
            options=("Infinity.", "$\\log 2$, between policies that share no response.", "$\\log 32$ on 32 classes."),
            answer=1,
            why="Each policy then puts twice the average's probability on all it says: $\\log 2$ in both halves.",
        ),
        notes=Notes(
            minutes=6,
            ask=(
                "A model never produces a response of the target: what is KL(target‖model) worth as a metric?",
                "By how much does KL(p‖q) grow when the share shrinks tenfold? (By 0.1 log 10.)",
            ),
            wrong=(
                "“KL explodes at once when a response is forgotten.” It grows by a tenth of log 10 per factor of ten.",
                "“JS is always better.” It saturates: it hardly tells apart two policies that are both far away.",
            ),
        ),
    )


LESSON = Lesson(
    number=1,
    slug="softmax",
    title="Softmax policies, entropy, and two divergences",
    aim="Read a policy as 32 numbers, and say what entropy, KL and JS measure, and where each fails.",
    minutes=21,
    build=build,
)
