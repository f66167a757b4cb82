"""Lesson 5: what each objective really converges to, and whether it is biased or only slow."""

# The models are printed on the page, and stay short: a solver that finds nothing stops the making of the page.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import numpy as np

import didsim as ds
from didsim.lessons import Axis, Chart, Control, Lesson, Mark, Notes, Question, Step, View, geometrically

NAMES = ("DPO", "SLiC", "ORPO", "SimPO", "Cal-DPO")
COLOURS = {"dpo": "blue", "slic": "orange", "orpo": "green", "simpo": "vermilion", "cal_dpo": "purple"}
"""One colour for each objective, the same as in all figures."""


def race(steps: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=4.0, seed=42)
    losses = [
        ds.objective("dpo", beta=1.0),
        ds.objective("slic", delta=1.0, lam=0.1),
        ds.objective("orpo", lam=0.1),
        ds.objective("simpo", beta=2.0, gamma=0.5),
        ds.objective("cal_dpo", beta=0.1),
    ]
    histories = ds.train_many(
        [(problem, loss) for loss in losses],
        steps=1600,
        record_every=20,
        mode="population",
        metrics=("js_target",),
        dtype="float64",
    )
    curves = {history.loss.name: history.metrics["js_target"] for history in histories}
    now = {name: curve[int(steps / 20)] for name, curve in curves.items()}
    return View(
        series=curves | {"now": [steps]},
        numbers={
            "steps": int(steps),
            "first": ("DPO", "SLiC", "ORPO", "SimPO", "Cal-DPO")[int(np.argmin(list(now.values())))],
            **now,
        },
    )


def bias(which: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=4.0, seed=42)
    loss = (
        ds.objective("dpo", beta=1.0),
        ds.objective("slic", delta=1.0, lam=0.1),
        ds.objective("orpo", lam=0.1),
        ds.objective("simpo", beta=2.0, gamma=0.5),
        ds.objective("cal_dpo", beta=0.1),
    )[int(which)]
    end = ds.solve(problem, loss).policy  # where the expected gradient vanishes
    towards_end = ds.Problem(
        reference=problem.reference, target=end, chosen=problem.chosen, rejected=problem.rejected
    )  # the same pairs; only what the policy is compared with differs
    settings = {"steps": 3000, "record_every": 50, "mode": "population", "learning_rate": 0.003, "dtype": "float64"}
    to_target = ds.train(problem, loss, metrics=("js_target",), **settings).metrics["js_target"]
    to_end = ds.train(towards_end, loss, metrics=("js_target",), **settings).metrics["js_target"]
    gap = float(ds.js(problem.target, end))
    return View(
        series={"target": to_target, "end": to_end},
        numbers={
            "name": ("DPO", "SLiC", "ORPO", "SimPO", "Cal-DPO")[int(which)],
            "gap": gap,
            "target": to_target[-1],
            "end": to_end[-1],
            "word": "slow: what is left can be trained away" if gap < 1e-9 else "biased: it stays at a distance",
        },
    )


def tuning(beta: float) -> View:
    problem = ds.Problem.from_temperature(num_classes=32, tau=4.0, seed=42)
    betas = [float(b) for b in np.geomspace(0.5, 8, 25)]
    losses = [ds.objective("simpo", beta=b, gamma=0.5) for b in [*betas, beta]]
    ends = [solution.policy for solution in ds.solve_many([(problem, loss) for loss in losses])]
    target = [float(ds.js(problem.target, end)) for end in ends]
    did = [float(ds.js(problem.did, end)) for end in ends]
    return View(
        series={"target": target[:-1], "did": did[:-1], "now": [beta, target[-1]], "then": [beta, did[-1]]},
        numbers={"beta": beta, "target": target[-1], "did": did[-1]},
    )


def build() -> tuple[Step, ...]:
    """Compute the steps."""
    return _race(), _bias(), _tuning()


def _race() -> Step:
    start = race(200.0)
    curves = {name: list(map(float, curve)) for name, curve in start.series.items() if name != "now"}
    return Step(
        name="race",
        title="Who is nearest depends on when you look",
        text="""
        Five objectives learn from the same pairs, those of lesson 4 with $\\tau = 4$. All start at the reference and take
        the same optimiser, RMSprop. The loss is exact: no sampling. We measure the distance to the target $\\pistar$.

        After so many steps one of them is nearest. Papers compare methods in this way.
        """,
        formula=r"L(\theta) = \sum_{i,j} \piref(i)\, \pil(j)\, \ell(i, j; \theta)",
        source="the population loss; Differential Information paper, Section 3.5 and Figure 7",
        predict="At 200 steps four of the five are close together. Will the one that leads then lead at 1600?",
        control=Control(
            label="training steps",
            values=tuple(float(n) for n in range(20, 1601, 20)),
            start=200.0,
            digits=0,
            presets={"early, 200": 200.0, "600": 600.0, "late, 1600": 1600.0},
        ),
        chart=Chart(
            title="Distance to the target during training",
            summary="Five curves fall from the left. ORPO levels off first, Cal-DPO later; SLiC and SimPO pass a lowest point and rise again; DPO keeps falling and ends far below.",
            x=Axis(label="training steps", low=0, high=1600, ticks=(0, 400, 800, 1200, 1600)),
            y=Axis(label="JS(π*, π), nats", low=1e-4, high=0.1, ticks=(1e-4, 1e-3, 0.01, 0.1), log=True),
            at=tuple(float(n) for n in range(0, 1601, 20)),
            marks=(
                Mark(name="now", kind="rule", colour="ink", faint=True),
                *(
                    Mark(name=name, kind="line", colour=COLOURS[name], label=label)
                    for name, label in zip(COLOURS, NAMES, strict=True)
                ),
            ),
        ),
        model=race,
        constants={"curves": curves},
        sentence="After {steps:0} steps {first} is nearest: DPO {dpo:5}, SLiC {slic:5}, ORPO {orpo:5}, SimPO {simpo:5}, Cal-DPO {cal_dpo:5} nats.",
        check=Question(
            text="A curve has stopped falling. What may be true?",
            options=(
                "The method has converged to the target.",
                "It has converged to another policy, or it is on its way and will rise or fall again.",
                "The learning rate is too large.",
            ),
            answer=1,
            why="SimPO's curve has a minimum where it passes by the target on its way to somewhere else. A flat curve proves nothing.",
        ),
        claims=("did.fig-7",),
        notes=Notes(
            minutes=7,
            ask=("Where would early stopping stop SimPO, and what would the paper then say?",),
            wrong=("“The lowest curve at the end is the best method.” It is the best at this step, on these pairs.",),
        ),
    )


def _bias() -> Step:
    return Step(
        name="bias",
        title="Biased, or only slow?",
        text="""
        Training shows neither where it leads nor that it has arrived. So solve instead: find the policy at which the
        expected gradient vanishes, to machine precision. Now there are two distances. One is to the *target*, the other
        to the objective's *own end*.

        If the second goes to 0 and the first does not, the objective is biased on these pairs. If both go to 0 it was
        only slow.
        """,
        formula=r"\pi^\circ: \quad \nabla_\theta L(\theta) = 0, \qquad \text{bias} = \mathrm{JS}(\pistar, \pi^\circ)",
        source="the stationary policy; `didsim solve NAME` finds it",
        predict="For which of the five do the two curves fall together?",
        control=Control(
            label="objective",
            values=(0.0, 1.0, 2.0, 3.0, 4.0),
            start=3.0,
            words=NAMES,
            presets=dict(zip(NAMES, (0.0, 1.0, 2.0, 3.0, 4.0), strict=True)),
        ),
        chart=Chart(
            title="Distance to the target, and to the objective's own end",
            summary="For DPO both curves coincide and fall. For the others the distance to their own end falls while the distance to the target levels off.",
            x=Axis(label="training steps", low=0, high=3000, ticks=(0, 1000, 2000, 3000)),
            y=Axis(label="JS, nats", low=1e-9, high=0.1, ticks=(1e-9, 1e-7, 1e-5, 1e-3, 0.1), log=True),
            at=tuple(float(n) for n in range(0, 3001, 50)),
            marks=(
                Mark(name="target", kind="line", colour="blue", label="to the target"),
                Mark(name="end", kind="line", colour="orange", label="to its end", dash="6 4"),
            ),
        ),
        model=bias,
        live=False,
        sentence="{name} ends {gap:5} nats from the target; after 3000 steps it is {target:5} from the target and {end:5} from its end. It is {word}.",
        check=Question(
            text="An objective is biased on these pairs. Does it follow that it is bad?",
            options=(
                "Yes.",
                "No: pairs of another law may be the ones from which it recovers the target.",
                "Only with more data.",
            ),
            answer=1,
            why="The pairs were built for DPO at $\\beta = 1$. For any objective one can ask which rejected responses make the target its stationary policy, and often there are some: `x.recovery-design`.",
        ),
        claims=(
            "x.stationary-dpo",
            "x.stationary-simpo",
            "x.stationary-slic",
            "x.stationary-orpo",
            "x.stationary-cal_dpo",
            "x.recovery-design",
        ),
        notes=Notes(
            minutes=8,
            ask=("Which experiment would tell bias from slowness without a solver?",),
            wrong=("“More steps would help.” Not where the dashed curve is already below the solid one.",),
        ),
    )


def _tuning() -> Step:
    betas = [float(b) for b in np.geomspace(0.5, 8, 25)]
    return Step(
        name="tuning",
        title="A hyperparameter moves the place where training ends",
        text="""
        SimPO has no reference. Its $\\beta$ looks like a scale of the loss, but it decides where the loss ends. With the
        solver we can see the whole curve without training once.

        Small $\\beta$ leads towards the *differential information* $q$: SimPO takes what pairs encode for the policy
        itself. Beyond it the policy flattens.
        """,
        formula=r"\ell = -\log \sigma\left(\beta \log \pi(y_w) - \beta \log \pi(y_l) - \gamma\right), \qquad \gamma = 0: \; \pi^\circ \propto q^{1/\beta}",
        source="SimPO on responses of one token; α-DPO paper, Eq. 5",
        predict="Is there a $\\beta$ at which SimPO ends at the target?",
        control=Control(
            label="β of SimPO (γ = 0.5)",
            values=geometrically(0.5, 8.0, 17),
            start=2.0,
            presets={"β = 1": 1.0, "the grid's 2": 2.0, "the grid's 2.5": 2.5, "β = 8": 8.0},
        ),
        chart=Chart(
            title="Where SimPO ends: distance to the target and to q",
            summary="The distance to the target falls with β but does not reach 0. The distance to q has a zero in between, below β = 2.",
            x=Axis(label="β", low=0.5, high=8, ticks=(0.5, 1, 2, 4, 8), log=True),
            y=Axis(label="JS, nats", low=0, high=0.3, ticks=(0, 0.1, 0.2, 0.3)),
            at=tuple(betas),
            marks=(
                Mark(name="target", kind="line", colour="vermilion", label="to the target", label_at=8, side="right"),
                Mark(name="did", kind="line", colour="ink", label="to q", dash="6 4", label_at=4, side="right"),
                Mark(name="now", kind="point", colour="vermilion"),
                Mark(name="then", kind="point", colour="ink"),
            ),
        ),
        model=tuning,
        live=False,
        sentence="At β = {beta:2} SimPO ends {target:4} nats from the target and {did:4} from the differential information.",
        check=Question(
            text="The RMiPO paper's Insight I says that $\\beta$ does not move the stationary points. What does the curve say?",
            options=("It agrees.", "It disagrees: the end moves with $\\beta$.", "It cannot tell."),
            answer=1,
            why="What is true is that $\\beta \\log \\pi$ is the same for all $\\beta$, up to a constant: $\\beta$ is the temperature at which a fixed profile becomes a policy, `x.beta-tempers`.",
        ),
        claims=("rmipo.insight-1", "x.beta-tempers", "x.stationary-simpo"),
        notes=Notes(
            minutes=7,
            ask=("Which β would a tuner choose who can see π*? And one who cannot?",),
            wrong=("“Tuning cures bias.” It picks the least biased point of a grid; the curve does not touch 0.",),
        ),
    )


LESSON = Lesson(
    number=5,
    slug="convergence",
    title="What each objective converges to",
    aim="Tell a biased objective from a slow one, and say what a training curve cannot show.",
    minutes=22,
    build=build,
)
