"""Lesson 4: the differential information distribution, its construction, and the ideal rejected distribution."""

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, geometrically

TEMPERATURES = geometrically(0.4, 8.0, 41)


def information(tau: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42)
    order = np.argsort(-problem.reference.probs)
    q = problem.did  # (π*/π_ref) / Z
    return View(
        series={"did": q.probs[order], "target": problem.target.probs[order]},
        numbers={"first": q.probs[order[0]], "last": q.probs[order[-1]], "entropy": float(ds.entropy(q))},
    )


def construction(tau: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=tau, seed=42)
    order = np.argsort(-problem.reference.probs)
    reference, target, rejected = (p.log_probs[order] for p in (problem.reference, problem.target, problem.rejected))
    apart = ds.tv(ds.did(problem.reference, problem.rejected), ds.did(problem.target, problem.reference))
    return View(
        series={"reference": reference, "target": target, "rejected": rejected},
        numbers={"tau": tau, "span": rejected[0] - rejected[-1], "kept": target[0] - target[-1], "apart": float(apart)},
    )


def rejected(beta: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=2.0, seed=42)
    worse = ds.ideal_rejected(problem.reference, problem.target, beta)
    order = np.argsort(problem.did.probs)
    learnt = ds.did(problem.reference, worse).log_probs[order]
    table = ds.preference_probabilities(problem.reference, worse)
    return View(
        series={"learnt": learnt - learnt.mean()},
        numbers={"beta": beta, "chance": table[order[-1], order[0]], "mass": worse.probs[order[0]]},
    )


def mismatch(beta: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=2.0, seed=42)  # its pairs encode β = 1

    def at(beta):
        return float(ds.js(problem.target, ds.dpo_optimum(problem, beta=beta)))

    return View(
        series={"distance": [at(b) for b in np.geomspace(0.25, 4, 49)], "now": [beta, at(beta)]},
        numbers={
            "beta": beta,
            "distance": at(beta),
            "moved": float(ds.kl(ds.dpo_optimum(problem, beta=beta), problem.reference)),
        },
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    problem = ds.Problem.from_temperature(num_classes=32, tau=2.0, seed=42)
    falling = np.sort(problem.reference.log_probs)[::-1].tolist()
    order = np.argsort(problem.did.probs)
    log_q = problem.did.log_probs[order]
    by_q = {
        "log_ref": problem.reference.log_probs[order].tolist(),
        "log_target": problem.target.log_probs[order].tolist(),
    }
    return (
        _information({"log_ref": falling}),
        _construction({"log_ref": falling}),
        _rejected(by_q, tuple((log_q - log_q.mean()).tolist())),
        _mismatch(by_q | {"at": np.geomspace(0.25, 4, 49).tolist()}),
    )


def _information(constants: dict) -> Step:
    return Step(
        name="information",
        title="What an update has learnt is a distribution",
        text="""
        A policy is updated from $\\piref$ to $\\pi$. Which responses carry the information of the update? Suppose that
        it was Bayes' rule: we learnt that an event $X$ happened, and $\\pi(y) = \\piref(y \\mid X)$. Then $X$ must be
        likely for a response exactly as far as its probability rose.

        Normalise that likelihood, starting from a uniform prior, and you have the *differential information
        distribution*, the DID: the ratio of the policies, normalised.
        """,
        formula=r"q_{\pi/\piref}(y) = \frac{1}{Z} \, \frac{\pi(y)}{\piref(y)}",
        source="Differential Information paper, Definition 3.1 and Theorem 3.2",
        predict="The target is the reference at temperature $\\tau$. For $\\tau = 2$, which class has the largest $q$: the most likely one, or the least likely?",
        control=Control(
            label="temperature τ of the target",
            values=TEMPERATURES,
            start=2.0,
            presets={"sharpen, τ = 0.5": 0.5, "no update, τ = 1": 1.0, "smooth, τ = 4": 4.0},
        ),
        chart=Chart(
            title="The DID from the reference to the target",
            summary="Bars show the DID, dots the target. For τ above 1 the bars grow to the right, on classes that the reference gives seldom; at τ = 1 all are equal; for τ below 1 they stand on the left.",
            x=Axis(label="class, most likely under π_ref first", low=0.3, high=32.7, ticks=(1, 8, 16, 24, 32)),
            y=Axis(label="probability", low=0, high=0.7, ticks=(0, 0.2, 0.4, 0.6)),
            at=tuple(range(1, 33)),
            marks=(
                Mark(name="did", kind="bars", colour="green", label="DID q", label_at=29),
                Mark(name="target", kind="dots", colour="ink", label="target", label_at=1),
            ),
        ),
        model=information,
        constants=constants,
        sentence="The DID gives the most likely class {first} and the least likely one {last}; its entropy is {entropy} nats.",
        check=Question(
            text="An update changes nothing: $\\pi = \\piref$. What is its DID?",
            options=("The reference, $\\piref$.", "The uniform distribution.", "It does not exist."),
            answer=1,
            why="All ratios are 1. No information is as likely to sit on one response as on another; the entropy of the DID is then largest, $\\log K$.",
        ),
        claims=("did.thm-3.2", "did.lem-D.1"),
        notes=Notes(
            minutes=6,
            ask=("Where has the uniform prior gone that Theorem 3.2 needs?", "What is the DID from π back to π_ref?"),
            wrong=(
                "“The DID is the new policy.” At τ = 1 the policy is π_ref and the DID is uniform.",
                "“A small update has a small DID.” It has an even one.",
            ),
        ),
    )


def _construction(constants: dict) -> Step:
    return Step(
        name="construction",
        title="Pairs that encode an update",
        text="""
        How must preference pairs be made so that they encode the step from $\\piref$ to $\\pistar$? Draw chosen
        responses from $\\piref$ and rejected ones from a policy $\\pil$ that is as far *behind* $\\piref$ as $\\pistar$ is
        ahead of it.

        In logits this is a mirror image: $\\theta_l = 2\\theta_{\\mathrm{ref}} - \\theta^*$. The DID from $\\pil$ to
        $\\piref$ is then that from $\\piref$ to $\\pistar$.
        """,
        formula=r"\theta^* = \theta_{\mathrm{ref}}/\tau, \quad \theta_l = 2\theta_{\mathrm{ref}} - \theta^* \quad\Rightarrow\quad q_{\piref/\pil} = q_{\pistar/\piref}",
        source="Differential Information paper, Section 3.5",
        predict="For $\\tau = 4$ the target is flatter than the reference. Are rejected responses flatter too, or sharper?",
        control=Control(
            label="temperature τ of the target",
            values=TEMPERATURES,
            start=4.0,
            presets={"sharpen, τ = 0.6": 0.6, "no update, τ = 1": 1.0, "smooth, τ = 4": 4.0},
        ),
        chart=Chart(
            title="Log-probabilities of the three policies",
            summary="Three falling curves over the classes. The reference lies between the other two at equal logit distances: for τ above 1 the target is the flattest and the rejected policy the steepest, below 1 the other way round.",
            x=Axis(label="class, most likely under π_ref first", low=1, high=32, ticks=(1, 8, 16, 24, 32)),
            y=Axis(label="log-probability, nats", low=-12, high=0, ticks=(-12, -9, -6, -3, 0)),
            at=tuple(range(1, 33)),
            marks=(
                Mark(name="rejected", kind="line", colour="vermilion", label="rejected π_l"),
                Mark(name="target", kind="line", colour="green", label="target π*"),
                Mark(name="reference", kind="line", colour="ink", label="π_ref"),
            ),
        ),
        model=construction,
        constants=constants,
        sentence="At τ = {tau:2} rejected responses span {span:2} nats from the most to the least likely, the target {kept:2}; the two DIDs differ by {apart} in total variation.",
        check=Question(
            text="The rejected policy gives the best class of $\\pistar$ less than $\\piref$ does. Need it give *every* response that $\\pistar$ likes less than a response that it does not?",
            options=(
                "Yes, or the pairs would be mislabelled.",
                "No: preferences are about ratios of the two policies.",
            ),
            answer=1,
            why="A pair is a draw from $\\piref$ against a draw from $\\pil$. What counts is $\\piref/\\pil$, response by response.",
        ),
        claims=("did.thm-3.3", "did.thm-3.5-forward"),
        notes=Notes(
            minutes=7,
            ask=(
                "Single pairs are noisy: the chosen response is often the worse one. Why is that no harm?",
                "Can π_l be drawn from in practice? (It needs π*, which is not known.)",
            ),
            wrong=("“Chosen responses come from π*.” In this construction they come from π_ref.",),
        ),
    )


def _rejected(constants: dict, log_q: tuple[float, ...]) -> Step:
    return Step(
        name="ideal-rejected",
        title="The ideal rejected distribution",
        text="""
        DPO with some $\\beta$ will be trained on the pairs. Then the step behind must be $\\beta$ times the step ahead, in
        the logarithm: a *power law* between two DIDs. It makes preferences Bradley–Terry with the reward $\\beta \\log
        q_{\\pistar/\\piref}$, and one distribution of rejected responses does it.
        """,
        formula=r"\pil(y) \propto \piref(y) \left( \frac{\piref(y)}{\pistar(y)} \right)^{\beta} \quad\Rightarrow\quad p^*(y_1 \succ y_2) = \sigma\left(\beta \log \frac{q(y_1)}{q(y_2)}\right)",
        source="Differential Information paper, Eq. 1 and Theorem 3.3",
        predict="With a small $\\beta$, are the labels of pairs clear or noisy?",
        control=Control(
            label="exponent β",
            values=geometrically(0.1, 3.0, 35),
            start=1.0,
            presets={"β = 0.1": 0.1, "β = 1": 1.0, "β = 2": 2.0},
        ),
        chart=Chart(
            title="What pairs encode against what is to be learnt, one dot for each class",
            summary="Dots on a straight line through the middle, whose slope is β.",
            x=Axis(label="log q from π_ref to π*, centred", low=-1.4, high=1.4, ticks=(-1, -0.5, 0, 0.5, 1)),
            y=Axis(label="log q from π_l to π_ref, centred", low=-3, high=3, ticks=(-3, -2, -1, 0, 1, 2, 3)),
            at=log_q,
            marks=(Mark(name="learnt", kind="dots", colour="green", label="slope β", label_at=24),),
        ),
        model=rejected,
        constants=constants,
        sentence="With β = {beta:2} the class with the most to gain is preferred to the one with the least with probability {chance}; rejected responses are the latter with probability {mass}.",
        check=Question(
            text="Is the ideal rejected distribution the only one from which DPO at this $\\beta$ recovers $\\pistar$, if chosen responses come from $\\piref$?",
            options=("Yes.", "No, any worse policy will do.", "No, but they agree on the order of responses."),
            answer=0,
            why="DPO ends at $\\piref (\\piref/\\pil)^{1/\\beta}$, normalised, and this equation can be solved for $\\pil$.",
        ),
        claims=("did.thm-3.3", "did.thm-L.1-if", "did.thm-L.1-only-if"),
        notes=Notes(
            minutes=7,
            ask=("What does β → 0 do to π_l? (It becomes π_ref: coin tosses.)", "How many pairs will a small β need?"),
            wrong=("“Worse rejected responses make better data.” Too bad is as wrong as too good.",),
        ),
    )


def _mismatch(constants: dict) -> Step:
    return Step(
        name="mismatch",
        title="The β of the loss must be that of the pairs",
        text="""
        The pairs encode the target at $\\beta = 1$. Now train DPO with another $\\beta$. The population loss has one
        minimum, known in closed form; no training is needed to see where it lies.

        $\\beta$ is then an exponent on the information: a small one overshoots the target, a large one stops short of it.
        """,
        formula=r"\pi_{\mathrm{DPO}}(y) \propto \piref(y)\, p^*(y)^{1/\beta}",
        source="Differential Information paper, footnote 4",
        predict="Is it worse to take $\\beta$ too small by half, or too large by half?",
        control=Control(
            label="β of the loss",
            values=geometrically(0.25, 4.0, 49),
            start=2.0,
            presets={"half, β = 0.5": 0.5, "as in the pairs, β = 1": 1.0, "double, β = 2": 2.0},
        ),
        chart=Chart(
            title="Distance of DPO's optimum to the target",
            summary="A V-shaped curve on a logarithmic axis of β with its minimum, 0, at β = 1; it rises faster to the left.",
            x=Axis(label="β of the loss", low=0.25, high=4, ticks=(0.25, 0.5, 1, 2, 4), log=True),
            y=Axis(label="JS(π*, π), nats", low=0, high=0.2, ticks=(0, 0.05, 0.1, 0.15, 0.2)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="distance", kind="line", colour="blue", label="DPO", label_at=14, side="right"),
                Mark(name="now", kind="point", colour="blue"),
            ),
        ),
        model=mismatch,
        constants=constants,
        sentence="With β = {beta:2} DPO ends {distance:5} nats from the target, and {moved} nats (KL) from the reference.",
        check=Question(
            text="DPO is trained with $\\beta = 0.1$ on the pairs of step 2. Will more data bring it to the target?",
            options=("Yes, if training is long enough.", "No: this distance is bias."),
            answer=1,
            why="The curve is of the population, of infinitely many pairs. At $\\beta \\ne 1$ its height is what remains.",
        ),
        claims=("did.footnote-4", "did.thm-3.4-if"),
        notes=Notes(
            minutes=5,
            ask=("Nobody knows the β of real pairs. What does this curve say about tuning β?",),
            wrong=("“β only sets the speed.” It moves the place where training ends.",),
        ),
    )


LESSON = Lesson(
    number=4,
    slug="did",
    title="Differential information",
    aim="Say what an update has learnt as a distribution, and build pairs from which DPO learns exactly that.",
    minutes=25,
    build=build,
)
