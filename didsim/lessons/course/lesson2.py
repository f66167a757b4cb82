"""Lesson 2: from KL-regularised reward to the closed-form policy, and β."""

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, geometrically

BETAS = geometrically(0.2, 20.0, 41)


def tilt(beta: float) -> View:
    reference = ds.Problem.from_temperature(num_classes=32, seed=42).reference
    reward = np.random.default_rng(7).normal(size=32)
    policy = ds.Policy.from_logits(reference.log_probs + reward / beta)
    order = np.argsort(-reward)
    return View(
        series={"policy": policy.probs[order], "reference": reference.probs[order]},
        numbers={"reward": policy.probs @ reward, "start": reference.probs @ reward, "best": policy.probs[order[0]]},
    )


def frontier(beta: float) -> View:
    reference = ds.Problem.from_temperature(num_classes=32, seed=42).reference
    reward = np.random.default_rng(7).normal(size=32)

    def at(beta):
        policy = ds.Policy.from_logits(reference.log_probs + reward / beta)
        return float(ds.kl(policy, reference)), float(policy.probs @ reward)

    price, gain = at(beta)
    log_z = float(np.log(np.sum(reference.probs * np.exp(reward / beta))))
    return View(
        series={"gains": [at(b)[1] for b in np.geomspace(20, 0.2, 41)], "now": [price, gain]},
        numbers={"beta": beta, "price": price, "gain": gain, "value": gain - beta * price, "free": beta * log_z},
    )


def implicit(beta: float) -> View:
    reference = ds.Problem.from_temperature(num_classes=32, seed=42).reference
    reward = np.sort(np.random.default_rng(7).normal(size=32))
    policy = ds.Policy.from_logits(reference.log_probs + reward / 1.0)  # the optimum of β = 1
    read = beta * (policy.log_probs - reference.log_probs)
    return View(
        series={"read": read},
        numbers={"slope": (read[-1] - read[0]) / (reward[-1] - reward[0]), "shift": read[0] - beta * reward[0]},
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    log_ref = ds.Problem.from_temperature(num_classes=32, seed=42).reference.log_probs
    reward = np.random.default_rng(7).normal(size=32)
    order = np.argsort(-reward)
    ordered = {"log_ref": log_ref[order].tolist(), "reward": reward[order].tolist()}
    plain = {"log_ref": log_ref.tolist(), "reward": reward.tolist(), "at": np.geomspace(20, 0.2, 41).tolist()}
    rising = {"log_ref": log_ref.tolist(), "reward": np.sort(reward).tolist()}
    prices = [frontier(b).series["now"][0] for b in plain["at"]]
    return _tilt(ordered), _frontier(plain, tuple(prices)), _implicit(rising)


def _tilt(constants: dict) -> Step:
    start = tilt(1.0).numbers["start"]
    return Step(
        name="tilt",
        title="The best policy tilts the reference",
        text=f"""
        Someone scores every response by a reward $r(y)$; here it is drawn at random. A policy that only chases reward
        always says the best response. We want reward without forgetting the reference, so we subtract a price: $\\beta$
        times $\\mathrm{{KL}}(\\pi \\| \\piref)$.

        This problem has a solution in closed form. Each probability of the reference is multiplied by $e^{{r/\\beta}}$,
        and the result is normalised. The reference itself earns a mean reward of ${start:.3f}$.
        """,
        formula=r"\max_\pi \; E_{y \sim \pi}[r(y)] - \beta\, \mathrm{KL}(\pi \| \piref) \quad\Rightarrow\quad \pistar(y) = \frac{1}{Z}\, \piref(y)\, e^{r(y)/\beta}",
        source="Rafailov et al. 2023, Eqs. 3 and 4; with a prior ζ in place of the reference: MI-DPO paper, Eq. 5",
        predict="Is a small $\\beta$ bold or timid?",
        control=Control(
            label="price β of KL",
            values=geometrically(0.5, 20.0, 41),
            start=1.0,
            presets={"bold, β = 0.5": 0.5, "β = 1": 1.0, "timid, β = 20": 20.0},
        ),
        chart=Chart(
            title="Thirty-two classes, best reward first",
            summary="Bars show the policy, dots the reference. At small β mass stands at the left, on classes that are both rewarded and likely under the reference; at large β bars and dots agree.",
            x=Axis(label="class, best reward first", low=0.3, high=32.7, ticks=(1, 8, 16, 24, 32)),
            y=Axis(label="probability", low=0, high=0.5, ticks=(0, 0.1, 0.2, 0.3, 0.4, 0.5)),
            at=tuple(range(1, 33)),
            marks=(
                Mark(name="policy", kind="bars", colour="blue", label="policy", label_at=2),
                Mark(name="reference", kind="dots", colour="ink", label="π_ref", label_at=26),
            ),
        ),
        model=tilt,
        constants=constants,
        sentence="The mean reward is {reward}, against {start} of the reference; the best response has probability {best}.",
        check=Question(
            text="A response has probability 0 under the reference and the highest reward of all. What is its probability under $\\pistar$?",
            options=("Close to 1 for small $\\beta$.", "0 for every $\\beta$.", "It depends on $Z$."),
            answer=1,
            why="The reference is *multiplied*. What it excludes stays excluded, whatever the reward: KL would be infinite.",
        ),
        claims=("mi.eq-5",),
        notes=Notes(
            minutes=7,
            ask=(
                "What are the two limits of the policy, β → 0 and β → ∞?",
                "Two responses have the same reward. What happens to the ratio of their probabilities? (Nothing.)",
            ),
            wrong=(
                "“β is a temperature of the policy.” It is one of the *change*: log(π*/π_ref) is r/β, not log π*.",
                "“Z depends on y.” It does not; with several prompts it depends on the prompt.",
            ),
        ),
    )


def _frontier(constants: dict, prices: tuple[float, ...]) -> Step:
    return Step(
        name="frontier",
        title="β chooses a point on a frontier",
        text="""
        Each $\\beta$ gives one pair of numbers: how much reward, at what KL. Together they are a *frontier*: no policy
        lies above the curve. $\\beta$ is the slope of the curve at the point that it chooses.

        The value of the whole problem is $\\beta \\log Z$. We can compute it without knowing the policy.
        """,
        formula=r"\max_\pi \left\{ E_\pi[r] - \beta\, \mathrm{KL}(\pi \| \piref) \right\} = \beta \log Z, \qquad Z = \sum_y \piref(y)\, e^{r(y)/\beta}",
        source="Rafailov et al. 2023, Appendix A.1",
        predict="Halving $\\beta$ from 2 to 1 and from 0.4 to 0.2: which of the two buys more reward per nat?",
        control=Control(
            label="price β of KL",
            values=BETAS,
            start=1.0,
            presets={"β = 0.2": 0.2, "β = 1": 1.0, "β = 5": 5.0},
        ),
        chart=Chart(
            title="Reward against the price paid for it",
            summary="The curve starts at the reference, at KL 0, rises steeply and bends over: each further nat of KL buys less reward.",
            x=Axis(label="KL(π‖π_ref), nats", low=0, high=3, ticks=(0, 1, 2, 3)),
            y=Axis(label="mean reward", low=-1, high=1.5, ticks=(-1, -0.5, 0, 0.5, 1, 1.5)),
            at=prices,
            marks=(
                Mark(name="gains", kind="line", colour="blue", label="best policies", label_at=30),
                Mark(name="now", kind="point", colour="blue"),
            ),
        ),
        model=frontier,
        constants=constants,
        sentence="At β = {beta:2} the policy earns {gain} at {price} nats; reward minus price is {value}, and β log Z is {free}.",
        check=Question(
            text="A paper reports a higher mean reward than another. What else must it report before that means anything?",
            options=("The KL to the reference.", "The entropy of the reward.", "The number of steps."),
            answer=0,
            why="Along the frontier every mean reward up to the largest can be bought. Only two points at the same KL can be compared.",
        ),
        notes=Notes(
            minutes=6,
            ask=(
                "Why can no policy lie above the curve?",
                "Where on the curve is the reference, and where greedy choice of the best response?",
            ),
            wrong=(
                "“The curve ends when the reward does.” KL is bounded here: it ends at −log π_ref of the best response.",
            ),
        ),
    )


def _implicit(constants: dict) -> Step:
    return Step(
        name="implicit",
        title="A policy is a reward in disguise",
        text="""
        Read the closed form backwards. If $\\pistar$ is the best policy for some reward, then the reward is
        $\\beta \\log (\\pistar/\\piref)$, up to a constant that is the same for all responses. DPO trains this *implicit
        reward* directly, and never fits another one.

        Below, a policy was made with $\\beta = 1$. We read its reward with a $\\beta$ of our choice.
        """,
        formula=r"r(y) = \beta \log \frac{\pistar(y)}{\piref(y)} + \beta \log Z",
        source="Rafailov et al. 2023, Eq. 5; Differential Information paper, Theorem 3.4",
        predict="With $\\beta = 1$ the dots will lie on a line. Of which slope? And with $\\beta = 2$?",
        control=Control(
            label="β of the reading",
            values=geometrically(0.25, 4.0, 33),
            start=2.0,
            presets={"too small, β = 0.5": 0.5, "that of the policy, β = 1": 1.0, "too large, β = 2": 2.0},
        ),
        chart=Chart(
            title="The reward that is read off against the true one, one dot for each class",
            summary="The dots lie on a straight line for every β. Its slope is β, since the policy was made with β = 1; it passes below the origin.",
            x=Axis(label="true reward", low=-2.2, high=2.2, ticks=(-2, -1, 0, 1, 2)),
            y=Axis(label="β log(π/π_ref)", low=-8, high=6, ticks=(-8, -6, -4, -2, 0, 2, 4, 6)),
            at=tuple(constants["reward"]),
            marks=(Mark(name="read", kind="dots", colour="blue", label="what is read", label_at=20),),
        ),
        model=implicit,
        constants=constants,
        sentence="The dots lie on a line of slope {slope:2}, moved by the constant {shift}.",
        check=Question(
            text="Preferences depend on differences of rewards. Which part of the formula can they not reveal?",
            options=("The factor $\\beta$.", "The constant $\\beta \\log Z$.", "The part $\\log \\piref(y)$."),
            answer=1,
            why="It is the same for all responses to a prompt, and cancels. That it cancels is why DPO needs no $Z$.",
        ),
        claims=("did.thm-3.4-if",),
        notes=Notes(
            minutes=6,
            ask=(
                "If β were wrong by a factor of two, would the *order* of responses change?",
                "And the policy that is learned? (Yes: see lesson 4, step 4.)",
            ),
            wrong=("“DPO has no reward model.” Its policy is one, up to a constant per prompt.",),
        ),
    )


LESSON = Lesson(
    number=2,
    slug="closed-form",
    title="From reward to policy, and the price β",
    aim="Derive the best policy under a KL price, and read a reward off a policy.",
    minutes=19,
    build=build,
)
