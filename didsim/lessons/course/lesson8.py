"""Lesson 8: failure modes: a wrong sign, β twice, a lost reference, mean for sum, saturation, and finite data."""

# The models are printed on the page, and stay short: a solver that finds nothing stops the making of the page.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, geometrically

MISTAKES = ("none", "wrong sign", "β twice", "no reference")
SCORES = ("DPO: sum", "DPO: mean", "SimPO: mean, no reference", "sum, no reference")
BLUE = "blue"


def mistake(which: float) -> View:
    world = ds.Problem.from_temperature(num_classes=32, tau=2.0, seed=42)
    problem = ds.Problem.from_policies(world.reference, world.target, beta=0.5)
    swapped = ds.Problem(
        reference=problem.reference, target=problem.target, chosen=problem.rejected, rejected=problem.chosen
    )
    end = (
        ds.dpo_optimum(problem, beta=0.5),
        ds.dpo_optimum(swapped, beta=0.5),
        ds.dpo_optimum(problem, beta=0.5 * 0.5),
        ds.dpo_optimum(problem, beta=0.5, prior=ds.Policy.from_logits(np.zeros(32))),
    )[int(which)]
    order = np.argsort(-problem.reference.probs)
    return View(
        series={"end": end.probs[order], "target": problem.target.probs[order]},
        numbers={
            "name": ("without a mistake", "with the wrong sign", "with β twice", "without the reference")[int(which)],
            "target": float(ds.js(problem.target, end)),
            "reference": float(ds.js(problem.reference, end)),
            "first": end.probs[order[0]],
        },
    )


def lengths(which: float) -> View:
    problem = ds.Problem.from_temperature(space=ds.Sequences(vocabulary=2, max_length=4), tau=2.0, seed=42)
    loss = (
        ds.objective("dpo", beta=1.0),
        ds.objective("dpo_norm", beta=1.0),
        ds.objective("simpo", beta=1.0, gamma=0.0),
        ds.objective("log_pi", beta=1.0),
    )[int(which)]
    end, long = ds.closed_form(problem, loss), problem.space.lengths

    def shares(policy):
        return [float(policy.probs[long == length].sum()) for length in (1, 2, 3, 4)]

    return View(
        series={"end": shares(end), "target": shares(problem.target)},
        numbers={
            "mean": float(end.probs @ long),
            "wanted": float(problem.target.probs @ long),
            "distance": float(ds.js(problem.target, end)),
        },
    )


def saturation(start: float) -> View:
    reference = ds.Policy.from_probs([0.5, 0.5])
    problem = ds.Problem.from_policies(reference, [0.8, 0.2], beta=1.0)  # the target margin is log 4
    history = ds.train(
        problem,
        ds.objective("dpo", beta=1.0),
        initial_policy=ds.Policy.from_logits([-start / 2, start / 2]),  # wrong by so many nats
        steps=200,
        record_every=4,
        mode="population",
        optimiser="sgd",
        learning_rate=0.5,
        clip=None,
        dtype="float64",
        metrics=("js_target",),
    )
    curve = history.metrics["js_target"]
    return View(
        series={"distance": curve},
        numbers={"start": start, "before": curve[0], "after": curve[10], "end": curve[-1]},
    )


def data(pairs: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=8, tau=2.0, seed=42)

    def at(pairs):
        return ds.predicted_error(problem, int(pairs), beta=1.0).kl

    return View(
        series={"error": [at(n) for n in np.geomspace(100, 1e6, 33)], "now": [pairs, at(pairs)]},
        numbers={"pairs": f"{int(pairs):,}".replace(",", " "), "error": at(pairs), "tenth": at(10 * pairs)},
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    return _mistake(), _lengths(), _saturation(), _data()


def _words(names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(place) for place, name in enumerate(names)}


def _mistake() -> Step:
    return Step(
        name="mistake",
        title="Three mistakes and their signatures",
        text="""
        A loss that is implemented wrongly still falls. Here are three common mistakes in DPO: chosen and rejected
        exchanged, $\\beta$ multiplied in twice, the reference forgotten.

        Each has a place where it ends, in closed form. The pairs encode the target at $\\beta = \\tfrac12$.
        """,
        formula=r"\piref\, q^{-1} \;\; \text{(wrong sign)}, \qquad \piref\, q^{\beta/\beta^2} \;\; (\beta \text{ twice}), \qquad q \;\; \text{(no reference)}",
        source="from footnote 4 of the Differential Information paper, each normalised",
        predict="The target is flatter than the reference. Which mistake ends *sharper* than the reference?",
        control=Control(
            label="mistake", values=(0.0, 1.0, 2.0, 3.0), start=1.0, words=MISTAKES, presets=_words(MISTAKES)
        ),
        chart=Chart(
            title="Where training ends, and the target",
            summary="Bars show the end, dots the target. Without a mistake they agree. With the wrong sign the bars fall off much more steeply; with β twice they are nearly even, and without the reference they rise to the right.",
            x=Axis(label="class, most likely under π_ref first", low=0.3, high=32.7, ticks=(1, 8, 16, 24, 32)),
            y=Axis(label="probability", low=0, high=0.4, ticks=(0, 0.1, 0.2, 0.3, 0.4)),
            at=tuple(range(1, 33)),
            marks=(
                Mark(name="end", kind="bars", colour=BLUE, label="end", label_at=15),
                Mark(name="target", kind="dots", colour="ink", label="target", label_at=3),
            ),
        ),
        model=mistake,
        live=False,
        sentence="Training {name} ends {target:4} nats (JS) from the target and {reference:4} from the reference; the first class gets {first}.",
        check=Question(
            text="Accuracy on pairs is high, and the policy is much flatter than it should be. Which mistake would you look for?",
            options=("A wrong sign.", "β twice.", "None: flat is safe."),
            answer=1,
            why="With $\\beta^2 < \\beta$ the loss asks for larger margins: the update goes the right way and too far. `didsim check-loss` names this one.",
        ),
        claims=("did.footnote-4", "x.stationary-log_pi"),
        notes=Notes(
            minutes=7,
            ask=("Which of these does the training loss reveal? (None: it falls in all four.)",),
            wrong=("“A wrong sign diverges.” It has an end: the mirror image of the target.",),
        ),
    )


def _lengths() -> Step:
    return Step(
        name="lengths",
        title="Mean in place of sum",
        text="""
        Responses are sequences now: two tokens and an end, at most four decisions. The log-probability of a sequence is a
        *sum* over its tokens. Some methods, and some code by accident, take the *mean*.

        The pairs are those of the DID construction. Only the score differs.
        """,
        formula=r"h(y) = \sum_{t=1}^{|y|} \log \frac{\pi(y_t|y_{<t})}{\piref(y_t|y_{<t})} \qquad \text{or} \qquad \frac{1}{|y|}\, h(y)",
        source="the conventions of `didsim objective dpo_norm` and `simpo`",
        predict="Dividing by the length: does the policy end with longer responses or with shorter ones?",
        control=Control(
            label="score",
            values=(0.0, 1.0, 2.0, 3.0),
            start=1.0,
            words=SCORES,
            presets=_words(("DPO: sum", "DPO: mean", "SimPO", "no reference")),
        ),
        chart=Chart(
            title="Lengths of responses where training ends, and under the target",
            summary="Bars show the end, dots the target. With DPO's sum they agree. With each of the other three nearly all mass moves to the longest responses.",
            x=Axis(label="length of the response", low=0.4, high=4.6, ticks=(1, 2, 3, 4)),
            y=Axis(label="probability", low=0, high=1, ticks=(0, 0.25, 0.5, 0.75, 1)),
            at=(1, 2, 3, 4),
            marks=(
                Mark(name="end", kind="bars", colour=BLUE, label="end", label_at=3),
                Mark(name="target", kind="dots", colour="ink", label="target", label_at=1, side="right"),
            ),
        ),
        model=lengths,
        live=False,
        sentence="The mean length ends at {mean:2}, against {wanted:2} under the target, and the distance to the target is {distance:3} nats.",
        check=Question(
            text="Longer responses after training: what does that prove about the pairs?",
            options=("Chosen responses were longer.", "Nothing by itself: the score can do it."),
            answer=1,
            why="The pairs are the same in all four cases.",
        ),
        claims=("x.stationary-dpo", "x.stationary-dpo_norm", "x.stationary-simpo", "x.stationary-log_pi"),
        notes=Notes(
            minutes=6,
            ask=("With equal lengths, which of the four agree up to β?",),
            wrong=("“Length normalisation prevents long responses.” On these pairs it produces them.",),
        ),
    )


def _saturation() -> Step:
    return Step(
        name="saturation",
        title="A saturated start looks like an end",
        text="""
        Two responses, target $(0.8, 0.2)$. We start on the *wrong* side, by so many nats, and take steps of gradient
        descent on the exact loss.

        The weight of a pair is at most 1, however wrong it is: the margin climbs at a steady rate and no faster. And as
        long as one response has nearly all of the mass, the probabilities hardly show that anything moves.
        """,
        formula=r"\nabla_\theta \log \pi(y_w) - \nabla_\theta \log \pi(y_l) = e_w - e_l, \qquad \sigma(-\beta m) \le 1",
        source="the gradient of lesson 3, step 2",
        predict="Starting twice as far away: does it take twice as long, or much longer?",
        control=Control(
            label="wrong by, nats",
            values=tuple(float(n) for n in range(0, 31)),
            start=4.0,
            digits=0,
            presets={"at the reference": 0.0, "4": 4.0, "12": 12.0, "30": 30.0},
        ),
        chart=Chart(
            title="Distance to the target during training",
            summary="From a nearby start the curve falls at once. From far away it stays level first, the longer the further, and then falls.",
            x=Axis(label="steps", low=0, high=200, ticks=(0, 50, 100, 150, 200)),
            y=Axis(label="JS(π*, π), nats", low=0, high=0.5, ticks=(0, 0.1, 0.2, 0.3, 0.4, 0.5)),
            at=tuple(float(n) for n in range(0, 201, 4)),
            marks=(Mark(name="distance", kind="line", colour=BLUE, label="DPO", label_at=4, side="right"),),
        ),
        model=saturation,
        live=False,
        sentence="Starting {start:0} nats on the wrong side, the distance is {before:3} at first, {after:3} after 40 steps and {end:5} after 200.",
        check=Question(
            text="A plateau at the beginning of training. Can it be told from a plateau at the end by the loss curve alone?",
            options=("Yes.", "No."),
            answer=1,
            why="Level is level. Solving for the stationary policy tells where the end is; so does starting elsewhere.",
        ),
        claims=("x.stationary-dpo",),
        notes=Notes(
            minutes=5,
            ask=("Along the plateau, what moves? (The margin, at a steady rate; the probabilities do not show it.)",),
            wrong=("“A saturated pair has gradient 0.” A *right* one has; a wrong one has weight 1.",),
        ),
    )


def _data() -> Step:
    return Step(
        name="data",
        title="Finite data: how far off is the best fit?",
        text="""
        So far we had the population. With $n$ pairs the likelihood has another maximum, near by if $n$ is large. The
        Fisher information of one pair says how near, on average.

        It is a prediction for datasets that have a best fit at all. If some response never wins or never loses, there is
        none: its log-ratio runs away.
        """,
        formula=r"E\, \mathrm{KL}(\pi^\circ \| \hat\pi) \approx \tfrac12 \sum_y \pi^\circ(y)\, \mathrm{Var} \log \hat\pi(y) \sim \frac{1}{n}",
        source="x.sample-size; van der Vaart (1998), Theorem 5.39",
        predict="Ten times as many pairs: by which factor does the error fall?",
        control=Control(
            label="number of pairs n",
            values=geometrically(100, 1e6, 33),
            start=1000.0,
            digits=0,
            presets={"100": 100.0, "1000": 1000.0, "100 000": 1e5},
        ),
        chart=Chart(
            title="Predicted distance of the fitted policy from the population's, 8 classes",
            summary="A straight falling line on two logarithmic axes: ten times the pairs, a tenth of the error.",
            x=Axis(label="pairs", low=100, high=1e6, ticks=(100, 1000, 10000, 1e5, 1e6), log=True),
            y=Axis(label="KL, nats", low=1e-5, high=1, ticks=(1e-5, 1e-4, 1e-3, 0.01, 0.1, 1), log=True),
            at=tuple(np.geomspace(100, 1e6, 33).tolist()),
            marks=(
                Mark(name="error", kind="line", colour=BLUE, label="predicted error", label_at=16, side="right"),
                Mark(name="now", kind="point", colour=BLUE),
            ),
        ),
        model=data,
        live=False,
        sentence="With {pairs} pairs the fitted policy is {error:4} nats off on average, with ten times as many {tenth:5}.",
        check=Question(
            text="A dataset is copied four times. What happens to the error?",
            options=("It is a quarter.", "It is what it was.", "It is a half."),
            answer=1,
            why="Copies bring no information; the maximum of the likelihood stays where it is. The formula would promise a quarter, and be wrong.",
        ),
        claims=("x.sample-size",),
        notes=Notes(
            minutes=6,
            ask=("Which is larger for a biased objective at large n: bias or error of the data?",),
            wrong=("“More data cures bias.” It cures this error only.",),
        ),
    )


LESSON = Lesson(
    number=8,
    slug="failure-modes",
    title="Failure modes",
    aim="Recognise a broken implementation, a saturated start and a lack of data by where, and how, training ends.",
    minutes=24,
    build=build,
)
