"""Lesson 7: mutual information, priors ζ, PMI, and the margins of α-DPO and RMiPO."""

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, evenly, geometrically


def mutual(relevance: float) -> View:
    rng = np.random.default_rng(5)
    popularity, signal = rng.normal(size=6), rng.normal(size=(4, 6))
    prompts = np.full(4, 0.25)

    def at(relevance):
        policy = ds.Policy.from_logits(popularity + relevance * signal)
        uniform = ds.Policy.from_logits(np.zeros(6))
        return float(ds.mutual_information(policy, prompts)), float(prompts @ ds.kl(policy, uniform))

    information, price = zip(*[at(s) for s in np.linspace(0, 4, 41)], strict=True)
    return View(
        series={
            "information": information,
            "uniform": price,
            "most": [np.log(4)],
            "now": [relevance, at(relevance)[0]],
            "then": [relevance, at(relevance)[1]],
        },
        numbers={
            "information": at(relevance)[0],
            "uniform": at(relevance)[1],
            "gap": at(relevance)[1] - at(relevance)[0],
        },
    )


def popularity(boost: float) -> View:
    policy = np.array([[0.5, 0.5], [0.75, 0.25]])  # two prompts, two responses
    prompts = [0.5, 0.5]

    def at(boost):
        boosted = policy * [boost, 1.0]
        boosted = boosted / boosted.sum(axis=1, keepdims=True)
        pmi = ds.pmi(boosted, prompts)
        return float(np.log(boosted[0, 0]) - np.log(boosted[0, 1])), float(pmi[0, 0] - pmi[0, 1])

    log_pi, pmi = zip(*[at(b) for b in np.geomspace(1, 100, 41)], strict=True)
    return View(
        series={"log_pi": log_pi, "pmi": pmi, "now": [boost, at(boost)[1]]},
        numbers={"boost": boost, "log_pi": at(boost)[0], "pmi": at(boost)[1], "start": at(1.0)[1]},
    )


def prior(power: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=4.0, seed=42)

    def at(power):
        zeta = ds.Policy.from_logits(power * problem.reference.log_probs)  # ζ ∝ π_ref^a
        end = ds.dpo_optimum(problem, beta=1.0, prior=zeta)
        return float(ds.js(problem.target, end)), float(ds.js(problem.did, end))

    target, did = zip(*[at(a) for a in np.linspace(0, 2, 41)], strict=True)
    return View(
        series={"target": target, "did": did, "now": [power, at(power)[0]], "then": [power, at(power)[1]]},
        numbers={"power": power, "target": at(power)[0], "did": at(power)[1]},
    )


def alpha(strength: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=4.0, seed=42)

    def at(strength):
        plain = {"gamma": 0.0, "normalise": False, "length_normalise": False}
        end = ds.closed_form(problem, ds.objective("alpha_dpo", beta=1.0, alpha=float(strength), **plain))
        assert end is not None  # with these options it has one
        return float(ds.js(problem.target, end)), float(ds.kl(end, problem.reference))

    distances = [at(a)[0] for a in np.linspace(0, 0.9, 37)]
    return View(
        series={"target": distances, "dpo": [0.0], "now": [strength, at(strength)[0]]},
        numbers={"strength": strength, "target": at(strength)[0], "kl": at(strength)[1], "simpo": at(0.0)[1]},
    )


def margin(delta: float) -> View:
    from didsim.torch_bridge import to_array, to_tensor

    deltas = to_tensor(np.append(np.linspace(-3, 6, 91), delta))
    zero = 0 * deltas
    pairs = ds.Pairs.from_log_probs(
        log_pi_chosen=zero - 9,
        log_pi_rejected=zero - 9,
        log_marginal_chosen=-9 - deltas,  # Δpmi is the difference of log π(y|x) − log π(y)
        log_marginal_rejected=zero - 9,
        length_chosen=zero + 1,
        length_rejected=zero + 1,
    )
    loss = ds.objective("rmipo", beta=2.0, gamma_min=0.3, gamma_max=1.6)(pairs)
    gamma = np.log(np.expm1(to_array(loss)))  # equal rewards: the loss is log(1 + e^γ)
    return View(
        series={"margin": gamma[:91], "most": [1.6], "least": [0.3], "now": [delta, gamma[91]]},
        numbers={"delta": delta, "margin": float(gamma[91])},
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    rng = np.random.default_rng(5)
    popular, signal = rng.normal(size=6).tolist(), rng.normal(size=(4, 6)).tolist()
    problem = ds.Problem.from_temperature(num_classes=32, tau=4.0, seed=42)
    policies = {
        "log_ref": problem.reference.log_probs.tolist(),
        "log_rejected": problem.rejected.log_probs.tolist(),
        "log_target": problem.target.log_probs.tolist(),
    }
    return (
        _mutual({"popularity": popular, "signal": signal, "at": np.linspace(0, 4, 41).tolist()}),
        _popularity({"at": np.geomspace(1, 100, 41).tolist()}),
        _prior(policies | {"at": np.linspace(0, 2, 41).tolist()}),
        _alpha(policies | {"at": np.linspace(0, 0.9, 37).tolist()}),
        _margin({"at": np.linspace(-3, 6, 91).tolist()}),
    )


def _mutual(constants: dict) -> Step:
    return Step(
        name="mutual",
        title="Mutual information is the least price of knowing the prompt",
        text="""
        Now there are several prompts $x$, here four, and six responses. How much does a response say about its prompt?
        The *mutual information* $I(X; Y)$ answers: 0 if all prompts get the same policy, at most $\\log 4$ if the
        response names the prompt.

        MI-DPO charges this instead of the KL to a reference. Lemma 1 makes it a minimum over priors $\\zeta(y)$, and the
        best prior is the marginal of the policy.
        """,
        formula=r"I(X; Y) = \min_{\zeta} \sum_x p(x)\, \mathrm{KL}\left(\pi(\cdot|x) \,\|\, \zeta\right)",
        source="MI-DPO paper, Lemma 1",
        predict="With relevance 0 all prompts get the same policy. What is the price under the best prior, and under a uniform one?",
        control=Control(
            label="relevance of the prompt",
            values=evenly(0, 4, 41),
            start=1.0,
            presets={"none": 0.0, "some": 1.0, "much": 4.0},
        ),
        chart=Chart(
            title="The price under the best prior and under a uniform one",
            summary="Both curves rise with the relevance of the prompt. The lower one starts at 0 and stays below log 4; the one of the uniform prior lies above it everywhere.",
            x=Axis(label="relevance of the prompt", low=0, high=4, ticks=(0, 1, 2, 3, 4)),
            y=Axis(label="nats", low=0, high=1.8, ticks=(0, 0.5, 1, 1.5)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="most", kind="level", colour="ink", label="log 4", dash="5 4"),
                Mark(name="uniform", kind="line", colour="orange", label="uniform ζ"),
                Mark(name="information", kind="line", colour="sky", label="I(X; Y)"),
                Mark(name="then", kind="point", colour="orange"),
                Mark(name="now", kind="point", colour="sky"),
            ),
        ),
        model=mutual,
        constants=constants,
        sentence="The mutual information is {information} nats; a uniform prior costs {uniform}, which is {gap} more.",
        check=Question(
            text="DPO is MI-DPO with $\\zeta = \\piref(y|x)$. Does DPO then penalise mutual information?",
            options=(
                "Yes, by Lemma 1.",
                "No: this prior knows the prompt, and Lemma 1 is about priors that do not.",
                "Only for small β.",
            ),
            answer=1,
            why="With $\\pi = \\piref$ the penalty is 0, whatever the mutual information: `mi.prompt-dependence`.",
        ),
        claims=("mi.lem-1", "mi.prompt-dependence", "x.prompt-dependence"),
        notes=Notes(
            minutes=5,
            ask=("What is the gap between the two curves? (KL of the marginal from uniform.)",),
            wrong=("“High mutual information is bad.” A policy that ignores the prompt has none.",),
        ),
    )


def _popularity(constants: dict) -> Step:
    start = popularity(1.0).numbers["pmi"]
    return Step(
        name="popularity",
        title="PMI removes popularity, but not all of it",
        text=f"""
        Some responses are likely under every prompt. The *pointwise mutual information* subtracts that: $\\log \\pi(y|x)
        - \\log \\pi(y)$. RMiPO reads it as relevance, insensitive to popularity.

        Two prompts, two responses, $\\pi = (\\tfrac12, \\tfrac12)$ and $(\\tfrac34, \\tfrac14)$. For the first prompt
        $\\Delta\\mathrm{{pmi}}$ of the two responses is ${start:.3f}$. Now make the first response more popular: multiply it
        by one factor under *both* prompts.
        """,
        formula=r"\mathrm{pmi}(x, y) = \log \pi(y|x) - \log \pi(y), \qquad \pi(y) = \sum_x p(x)\, \pi(y|x)",
        source="RMiPO paper, Section 3.2 and Eq. 7",
        predict="Does $\\Delta\\mathrm{pmi}$ change at all?",
        control=Control(
            label="popularity factor",
            values=geometrically(1, 100, 41),
            start=3.0,
            presets={"none": 1.0, "the ledger's 3": 3.0, "100": 100.0},
        ),
        chart=Chart(
            title="First prompt: what separates the two responses",
            summary="Δlog π grows with the logarithm of the factor. Δpmi moves much less, but it moves: from below −0.5 towards −0.4.",
            x=Axis(label="popularity factor of the first response", low=1, high=100, ticks=(1, 10, 100), log=True),
            y=Axis(label="nats", low=-1, high=5, ticks=(-1, 0, 1, 2, 3, 4, 5)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="log_pi", kind="line", colour="ink", label="Δlog π"),
                Mark(name="pmi", kind="line", colour="sky", label="Δpmi"),
                Mark(name="now", kind="point", colour="sky"),
            ),
        ),
        model=popularity,
        constants=constants,
        sentence="With a factor of {boost:1} Δlog π is {log_pi} and Δpmi {pmi} nats, against {start} at the beginning.",
        check=Question(
            text="When is Δpmi exactly invariant?",
            options=(
                "Always.",
                "If the posteriors $\\pi(x|y)$ stay as they are.",
                "If the factor is small.",
            ),
            answer=1,
            why="Δpmi is $\\log \\pi(x|y_w) - \\log \\pi(x|y_l)$. The factor changes the normalisers of the prompts, and with them the posteriors.",
        ),
        claims=("rmipo.prior-invariance", "x.prior-invariance-by-marginal", "rmipo.eq-7"),
        notes=Notes(
            minutes=5,
            ask=("Where does the factor enter the marginal? (Through the normalisers, prompt by prompt.)",),
            wrong=("“It cancels in the ratio.” It does; the normalisers do not.",),
        ),
    )


def _prior(constants: dict) -> Step:
    return Step(
        name="prior",
        title="The prior decides where the loss ends",
        text="""
        One loss, many methods: put a prior $\\zeta$ in the place of the reference. $\\zeta = \\piref$ is DPO; a uniform one
        is the reward $\\beta \\log \\pi$ of reference-free methods such as SimPO. The end has a closed form for every
        $\\zeta$.

        Between the two lies $\\zeta \\propto \\piref^a$. The pairs are those of lesson 4.
        """,
        formula=r"\ell = -\log \sigma\left(\beta \log \frac{\pi(y_w)}{\zeta(y_w)} - \beta \log \frac{\pi(y_l)}{\zeta(y_l)}\right), \qquad \pi^\circ \propto \zeta\, q^{1/\beta}",
        source="MI-DPO paper, Section 4; the end: footnote 4 of the Differential Information paper",
        predict="At which $a$ does training end at the target, and at which at $q$?",
        control=Control(
            label="power a of the reference in ζ",
            values=evenly(0, 2, 41),
            start=0.5,
            presets={"uniform, a = 0": 0.0, "a = 0.5": 0.5, "DPO, a = 1": 1.0, "twice, a = 2": 2.0},
        ),
        chart=Chart(
            title="Distance of the end to the target, and to q",
            summary="The distance to the target falls from a = 0 to 0 at a = 1 and rises again. The distance to q is 0 at a = 0 and rises.",
            x=Axis(label="power a", low=0, high=2, ticks=(0, 0.5, 1, 1.5, 2)),
            y=Axis(label="JS, nats", low=0, high=0.25, ticks=(0, 0.05, 0.1, 0.15, 0.2, 0.25)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="target", kind="line", colour="blue", label="to the target", label_at=5),
                Mark(name="did", kind="line", colour="ink", label="to q", dash="6 4", label_at=25, side="right"),
                Mark(name="now", kind="point", colour="blue"),
                Mark(name="then", kind="point", colour="ink"),
            ),
        ),
        model=prior,
        constants=constants,
        sentence="With a = {power:2} training ends {target:4} nats from the target and {did:4} nats from the differential information.",
        check=Question(
            text="Learning $\\zeta$ beside the policy reaches a smaller loss than any fixed prior. Is the policy nearer to the target?",
            options=("Yes, the loss is smaller.", "Not necessarily."),
            answer=1,
            why="The smaller loss is a fact of minimising over more. Where the policy lies is another question: on these pairs the fixed prior $\\piref$ is already perfect.",
        ),
        claims=("mi.recovers-dpo", "mi.joint-min", "mi.joint-min-better", "did.footnote-4"),
        notes=Notes(
            minutes=5,
            ask=("What would α-DPO with α between 0 and 1 interpolate, if its reference form were π_ref^α?",),
            wrong=("“The reference is only a regulariser.” It decides where training ends.",),
        ),
    )


def _alpha(constants: dict) -> Step:
    return Step(
        name="alpha",
        title="A prior made of the policy itself runs away from the reference",
        text="""
        α-DPO lets the prior move with the policy: $\\zeta \\propto U \\, (\\pi/\\piref)^\\alpha$, frozen in every gradient.
        With $\\alpha = 0$ it is SimPO, and here that ends at $q$. The paper offers $\\alpha$ as the way from SimPO to DPO.

        Setting the reward of $\\pi$ equal to SimPO's and solving for $\\pi$ gives the end (margins as they are, not
        z-scores; responses of one length; the pairs of lesson 4).
        """,
        formula=r"\pi_\alpha \propto \piref \left(\frac{\pi_{\mathrm{SimPO}}}{\piref}\right)^{1/(1-\alpha)}, \qquad 0 \le \alpha < 1",
        source="α-DPO paper, Eqs. 8 and 9; the end: `x.alpha-dpo-path`",
        predict="DPO ends at the target. Does the end come nearer to it as $\\alpha$ grows?",
        control=Control(
            label="α",
            values=evenly(0, 0.9, 37),
            start=0.2,
            presets={"SimPO, 0": 0.0, "the paper's largest, 0.2": 0.2, "0.5": 0.5, "0.9": 0.9},
        ),
        chart=Chart(
            title="Distance of α-DPO's end to the target",
            summary="The distance to the target rises with α from the start to the end; DPO's is 0.",
            x=Axis(label="α", low=0, high=0.9, ticks=(0, 0.2, 0.4, 0.6, 0.8)),
            y=Axis(label="JS, nats", low=0, high=0.7, ticks=(0, 0.2, 0.4, 0.6)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="dpo", kind="level", colour="ink", label="DPO", dash="5 4"),
                Mark(name="target", kind="line", colour="vermilion", label="α-DPO", label_at=20),
                Mark(name="now", kind="point", colour="vermilion"),
            ),
        ),
        model=alpha,
        constants=constants,
        sentence="With α = {strength:3} training ends {target:4} nats from the target, and $\\mathrm{KL}(\\pi \\| \\piref)$ is {kl:3}, against {simpo:3} for SimPO.",
        check=Question(
            text="Which responses survive as $\\alpha \\to 1$?",
            options=(
                "Those that the target likes.",
                "Only those whose $\\pi_{\\mathrm{SimPO}}/\\piref$ is the largest.",
                "All, as in the reference.",
            ),
            answer=1,
            why="The exponent $1/(1-\\alpha)$ grows without bound. That is the opposite of an approach to DPO: `alpha.limit-1`.",
        ),
        claims=("x.alpha-dpo-path", "alpha.limit-0", "alpha.limit-1", "alpha.kl-control", "x.alpha-dpo-is-dpo"),
        notes=Notes(
            minutes=5,
            ask=(
                "The margin asks more of pairs that have moved more. Does that hold π near π_ref? (No: it drives it away.)",
            ),
            wrong=(
                "“α interpolates between SimPO and DPO.” With π_ref^α in the prior it would: `x.alpha-dpo-is-dpo`.",
            ),
        ),
    )


def _margin(constants: dict) -> Step:
    return Step(
        name="margin",
        title="Margins that move are priors that move",
        text="""
        SimPO asks every pair for the same margin $\\gamma$. α-DPO and RMiPO ask each pair for its own, computed from the
        policy itself and then frozen. A margin that is a difference of a function of $y_w$ and of $y_l$ is the logarithm
        of a prior; one that is not, as here, is no prior at all.

        RMiPO asks for less where the chosen response is the more relevant one already.
        """,
        formula=r"\gamma = \gamma_{\min} + (\gamma_{\max} - \gamma_{\min})\, e^{-\max(0,\, \Delta\mathrm{pmi})}",
        source="RMiPO paper, Section 3.2, before Eq. 8",
        predict="Which margin does a pair get whose chosen response is the *less* relevant one?",
        control=Control(
            label="Δpmi of the pair, nats",
            values=evenly(-3, 6, 91),
            start=1.0,
            presets={"less relevant": -2.0, "equal": 0.0, "more relevant": 1.0, "much more": 5.0},
        ),
        chart=Chart(
            title="RMiPO's margin, γ_min = 0.3 and γ_max = 1.6",
            summary="Constant at γ_max up to Δpmi = 0, then a kink, then an exponential decay towards γ_min, which is not reached.",
            x=Axis(label="Δpmi, nats", low=-3, high=6, ticks=(-3, 0, 3, 6)),
            y=Axis(label="margin γ", low=0, high=2, ticks=(0, 0.5, 1, 1.5, 2)),
            at=tuple(constants["at"]),
            marks=(
                Mark(name="most", kind="level", colour="ink", label="γ_max", dash="5 4"),
                Mark(name="least", kind="level", colour="ink", label="γ_min", dash="5 4"),
                Mark(name="margin", kind="line", colour="vermilion", label="RMiPO", label_at=42, side="right"),
                Mark(name="now", kind="point", colour="vermilion"),
            ),
        ),
        model=margin,
        constants=constants,
        sentence="At Δpmi = {delta:1} the margin that is asked for is {margin}.",
        check=Question(
            text="There is one prompt only. Which margin does RMiPO use?",
            options=(
                "The smallest, $\\gamma_{\\min}$.",
                "The largest, $\\gamma_{\\max}$, for every pair.",
                "It depends on the pair.",
            ),
            answer=1,
            why="With one prompt the marginal is the policy itself, and Δpmi is 0 for all pairs. RMiPO is then SimPO with $\\gamma_{\\max}$.",
        ),
        claims=("rmipo.margin", "x.rmipo-one-prompt"),
        notes=Notes(
            minutes=5,
            ask=("Is RMiPO's margin the logarithm of a prior? (No: it is not a difference of two scores.)",),
            wrong=("“The margin decays smoothly.” It has a kink at 0, and equals γ_max to the left of it.",),
        ),
    )


LESSON = Lesson(
    number=7,
    slug="mutual-information",
    title="Mutual information, priors, and moving margins",
    aim="Read a family of objectives as one loss with different priors, and say where each of them ends.",
    minutes=25,
    build=build,
)
