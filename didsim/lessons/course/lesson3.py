"""Lesson 3: Bradley–Terry, the DPO loss, and the weight of its gradient."""

# The models are printed on the page, and stay short: a solver that finds nothing stops the making of the page.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, evenly, geometrically

MARGINS = evenly(-6, 6, 61)


def bradley_terry(difference: float) -> View:
    from scipy.special import expit

    return View(
        series={"curve": expit(np.linspace(-6, 6, 61)), "now": [difference, expit(difference)]},
        numbers={"difference": difference, "chance": expit(difference), "odds": np.exp(difference)},
    )


def weight(beta: float) -> View:
    from didsim.torch_bridge import to_array, to_tensor

    margins = to_tensor(np.concatenate([np.linspace(-6, 6, 61), [0.0, 2.0]]))
    zero = 0 * margins
    pairs = ds.Pairs.from_log_probs(
        log_pi_chosen=margins - 9, log_pi_rejected=zero - 9, log_ref_chosen=zero - 9, log_ref_rejected=zero - 9
    )
    loss = to_array(ds.objective("dpo", beta=beta)(pairs))
    pull = -to_array(ds.OBJECTIVES["dpo"].link.slope(beta * margins))  # σ(−βm)
    return View(
        series={"loss": loss[:61], "weight": pull[:61], "now": [2.0, pull[62]]},
        numbers={"start": pull[61], "solved": pull[62], "unsolved": pull[20]},
    )


def step(steps: float) -> View:
    reference = ds.Policy.from_probs([0.15, 0.45, 0.3, 0.1])
    chosen, rejected = ds.Policy.from_probs([1, 0, 0, 0]), ds.Policy.from_probs([0, 1, 0, 0])
    problem = ds.Problem(reference=reference, target=reference, chosen=chosen, rejected=rejected)
    history = ds.train(
        problem,
        ds.objective("dpo", beta=1.0),
        steps=int(steps),
        learning_rate=0.5,
        optimiser="sgd",
        clip=None,
        mode="population",
        dtype="float64",
    )
    policy = history.policy.probs
    return View(
        series={"policy": policy, "reference": reference.probs},
        numbers={
            "steps": int(steps),
            "chosen": policy[0],
            "rejected": policy[1],
            "third": policy[2],
            "margin": float(np.log(policy[0] / 0.15) - np.log(policy[1] / 0.45)),
        },
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    return _bradley_terry(), _weight(), _step()


def _bradley_terry() -> Step:
    return Step(
        name="bradley-terry",
        title="A preference is a noisy difference of rewards",
        text="""
        People and models compare. The *Bradley–Terry* model says how: the chance that $y_1$ is preferred to $y_2$ is a
        function of the difference of their rewards alone, the logistic function $\\sigma$.

        A difference of 0 is a coin toss. Each nat multiplies the odds by $e$.
        """,
        formula=r"p^*(y_1 \succ y_2) = \sigma\left(r(y_1) - r(y_2)\right), \qquad \sigma(x) = \frac{1}{1 + e^{-x}}",
        source="Differential Information paper, Section 2",
        predict="How large a difference makes nine of ten comparisons agree? One nat, two, or five?",
        control=Control(
            label="difference of rewards, nats",
            values=MARGINS,
            start=1.0,
            presets={"a coin toss": 0.0, "nine of ten": 2.2, "nearly certain": 5.0},
        ),
        chart=Chart(
            title="The chance that the first response is preferred",
            summary="An S-shaped curve from 0 on the left to 1 on the right, through one half at a difference of 0.",
            x=Axis(label="r(y₁) − r(y₂), nats", low=-6, high=6, ticks=(-6, -4, -2, 0, 2, 4, 6)),
            y=Axis(label="probability", low=0, high=1, ticks=(0, 0.25, 0.5, 0.75, 1)),
            at=tuple(np.linspace(-6, 6, 61).tolist()),
            marks=(
                Mark(name="curve", kind="line", colour="blue", label="σ", label_at=38, side="right"),
                Mark(name="now", kind="point", colour="blue"),
            ),
        ),
        model=bradley_terry,
        constants={"at": np.linspace(-6, 6, 61).tolist()},
        sentence="A difference of {difference:1} nats gives a probability of {chance}, odds of {odds:2} to one.",
        check=Question(
            text="All rewards are doubled. What happens to the preferences?",
            options=("Nothing: only the order counts.", "They become more certain.", "They become less certain."),
            answer=1,
            why="Differences double, so odds are squared. The scale of a reward is part of what preferences tell; a constant is not.",
        ),
        claims=("did.thm-2.1",),
        notes=Notes(
            minutes=5,
            ask=(
                "Which two statements about rewards can preferences never decide between? (r and r + c.)",
                "Is every set of preferences Bradley–Terry? (No: rock, paper, scissors is not.)",
            ),
            wrong=("“σ(1) is about 0.9.” It is about 0.73; nine of ten needs log 9 ≈ 2.2 nats.",),
        ),
    )


def _weight() -> Step:
    low, high = weight(0.1).numbers["solved"], weight(5.0).numbers["solved"]
    return Step(
        name="weight",
        title="The DPO loss pulls hardest where it is wrong",
        text="""
        Put the implicit reward into Bradley–Terry and take the negative log-likelihood: that is the DPO loss. With the
        log-ratio $h = \\log \\pi/\\piref$ of each response it is a function of one number, the *margin*
        $m = h(y_w) - h(y_l)$.

        Its gradient is the direction $\\nabla \\log \\pi(y_w) - \\nabla \\log \\pi(y_l)$ times a weight. The weight is the
        probability that the model still gives to the wrong order.
        """,
        formula=r"\mathcal{L} = -\log \sigma(\beta m), \qquad \nabla \mathcal{L} = -\beta \underbrace{\sigma(-\beta m)}_{\text{weight}} \left(\nabla \log \pi(y_w) - \nabla \log \pi(y_l)\right)",
        source="Rafailov et al. 2023, Eq. 7 and the equation after it",
        predict="Training starts at $\\pi = \\piref$. What is the weight of every pair then, and does it depend on $\\beta$?",
        control=Control(
            label="β",
            values=geometrically(0.1, 5.0, 35),
            start=1.0,
            presets={"β = 0.1": 0.1, "β = 1": 1.0, "β = 5": 5.0},
        ),
        chart=Chart(
            title="Loss and weight of a pair against its margin",
            summary="The loss falls from left to right, nearly straight on the left and flat on the right. The weight falls from 1 to 0 through one half at margin 0. With larger β both turn more sharply.",
            x=Axis(label="margin m, nats", low=-6, high=6, ticks=(-6, -4, -2, 0, 2, 4, 6)),
            y=Axis(label="loss in nats; weight", low=0, high=4, ticks=(0, 1, 2, 3, 4)),
            at=tuple(np.linspace(-6, 6, 61).tolist()),
            marks=(
                Mark(name="loss", kind="line", colour="blue", label="loss", label_at=22, side="right"),
                Mark(name="weight", kind="line", colour="orange", label="weight", label_at=44),
                Mark(name="now", kind="point", colour="orange"),
            ),
        ),
        model=weight,
        constants={"at": np.linspace(-6, 6, 61).tolist()},
        sentence="A pair at m = 0 has weight {start}, one at m = 2 has {solved}, and one that is wrong by 2 nats {unsolved}.",
        check=Question(
            text="At $m = 2$ the weight is "
            f"{low:.2f} for $\\beta = 0.1$ and {high:.5f} for $\\beta = 5$. What does a large $\\beta$ do to learning?",
            options=(
                "Pairs that are right by a little stop teaching early, and the policy stays near the reference.",
                "The policy moves further from the reference.",
                "Nothing, as it can be made up for by the learning rate.",
            ),
            answer=0,
            why="The same preference is fitted by a margin of $1/\\beta$ times the size. That is the price of lesson 2 again.",
        ),
        notes=Notes(
            minutes=7,
            ask=(
                "Why is the loss log 2 at the start, whatever the data?",
                "A mislabelled pair sits at m = −5. What does its weight say about robustness?",
            ),
            wrong=(
                "“The loss is smallest at m = 0.” It falls for ever; single pairs have no optimum, populations have.",
                "“The weight tells how good the chosen response is.” It knows margins, not quality.",
            ),
        ),
    )


def _step() -> Step:
    return Step(
        name="bystanders",
        title="One pair moves the whole policy",
        text="""
        Four responses, one pair: the first is chosen, the second rejected. DPO with $\\beta = 1$ takes steps of gradient
        descent. In logits it raises the chosen one, lowers the rejected one by as much, and touches no other.

        But a policy is normalised: when one logit moves, *all* probabilities move.
        """,
        formula=r"\dot\theta = \beta\, \sigma(-\beta m)\, (e_w - e_l), \qquad \dot\pi_k = \pi_k \left( \dot\theta_k - \textstyle\sum_j \pi_j \dot\theta_j \right)",
        source="the gradient of step 2 in the logits of a softmax policy",
        predict="The third response is in no pair. Does its probability rise, fall, or stay?",
        control=Control(
            label="steps of gradient descent",
            values=(1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0, 200.0, 300.0, 500.0),
            start=10.0,
            digits=0,
            presets={"first step": 1.0, "20 steps": 20.0, "500 steps": 500.0},
        ),
        chart=Chart(
            title="Four responses: chosen, rejected, and two bystanders",
            summary="Bars show the policy, dots the reference. The first bar grows, the second shrinks. The third and fourth grow at first, and shrink again once the second is nearly empty.",
            x=Axis(label="response", low=0.4, high=4.6, ticks=(1, 2, 3, 4)),
            y=Axis(label="probability", low=0, high=1, ticks=(0, 0.25, 0.5, 0.75, 1)),
            at=(1, 2, 3, 4),
            marks=(
                Mark(name="policy", kind="bars", colour="blue", label="chosen", label_at=0),
                Mark(name="reference", kind="dots", colour="ink", label="π_ref", label_at=2, side="right"),
            ),
        ),
        model=step,
        constants={"log_ref": ds.Policy.from_probs([0.15, 0.45, 0.3, 0.1]).log_probs.tolist()},
        sentence="After {steps:0} steps the chosen response has {chosen}, the rejected one {rejected}, and the third, which no pair names, {third}; the margin is {margin:2} nats.",
        check=Question(
            text="When does a bystander *lose* probability in such a step?",
            options=(
                "Never.",
                "If the chosen response is more likely than the rejected one.",
                "If the bystander is more likely than both.",
            ),
            answer=1,
            why="$\\sum_j \\pi_j \\dot\\theta_j$ is proportional to $\\pi_w - \\pi_l$, and a bystander moves against it. In a population of pairs this decides who falls: lesson 6.",
        ),
        claims=("x.displacement",),
        notes=Notes(
            minutes=7,
            ask=(
                "Where does the sequence end if we never stop? (Margin → ∞, slower and slower.)",
                "Why do the logits of bystanders not move?",
            ),
            wrong=("“DPO raises the chosen and lowers the rejected, and that is all.” Bystanders move too.",),
        ),
    )


LESSON = Lesson(
    number=3,
    slug="dpo-loss",
    title="Bradley–Terry, the DPO loss, and its weight",
    aim="Write down the DPO loss and its gradient, and say which pairs teach and who else is moved.",
    minutes=19,
    build=build,
)
