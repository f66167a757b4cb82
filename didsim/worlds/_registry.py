"""The worlds by name, each with what it is and where it comes from."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from didsim.preference import Problem
from didsim.worlds._finite import finite_data
from didsim.worlds._independent import did
from didsim.worlds._labelled import boilerplate, bradley_terry, length_bias, suboptimal_reference, ties
from didsim.worlds._non_transitive import non_transitive
from didsim.worlds._restricted import restricted


@dataclass(frozen=True)
class World:
    """A family of preference problems with a known truth.

    Attributes:
        name: its name in `WORLDS`.
        title: what it is, in a line.
        description: how pairs come about, what the truth is, and what to expect of DPO, in a paragraph.
        source: where it comes from.
        build: the function that builds a problem; every argument has a default.
    """

    name: str
    title: str
    description: str
    source: str
    build: Callable[..., Problem]

    @property
    def options(self) -> Mapping[str, Any]:
        """The arguments of `build` that are numbers or words, with their defaults; None stands for a whole number."""
        parameters = inspect.signature(self.build).parameters
        return {name: parameter.default for name, parameter in parameters.items() if name != "sampler"}


_WORLDS = (
    World(
        "did",
        "the DID construction: chosen responses from π_ref, rejected ones from the ideal distribution",
        "Chosen responses are drawn from π_ref and rejected ones, independently, from π_l ∝ π_ref (π_ref/π*)^β. The "
        "truth is π* = π_ref^{1/τ}: smoother than π_ref for τ > 1, sharper for τ < 1. It is the world in which DPO at "
        "this β ends at the truth by construction, and the only one here whose two responses are independent.",
        "DID paper, Section 3.5 and Eq. 1",
        did,
    ),
    World(
        "bradley_terry",
        "pairs from π_ref, labelled by a true reward, with noise if wanted",
        "Two responses are drawn from π_ref, or another sampler, and the first is chosen with probability σ(r₁ − r₂); "
        "with probability ε the label is then flipped. The truth is π* ∝ π_ref e^{r/β}, the optimum of reinforcement "
        "learning with a KL penalty. Without noise DPO at this β ends at the truth, whatever the sampler. With noise "
        "it does not, nor does cdpo, which smooths labels further: robust_dpo does, if its label_smoothing is ε.",
        "Bradley and Terry 1952; Rafailov et al. 2023, Eq. 4; Chowdhury et al. 2024 (noise)",
        bradley_terry,
    ),
    World(
        "ties",
        "labellers may call two responses equal; ties are dropped or split",
        "Two responses are drawn from π_ref; the first wins, loses or ties in the ratio a : b : ν√(ab) with a = "
        "e^{r₁}, b = e^{r₂}. The truth is π* ∝ π_ref e^{r/β}. This is Davidson's model and not Rao and Kupper's, "
        "because here ties leave the odds of a win at e^{r₁ − r₂} (Luce's choice axiom): the strengths mean what they "
        "mean without ties. So where ties are dropped DPO ends at the truth, and only the pairs that one sees are "
        "others; where they are split, each half a win, preferences are pulled towards ½, no reward explains them, "
        "and DPO falls short.",
        "Davidson 1970; Rao and Kupper 1967",
        ties,
    ),
    World(
        "non_transitive",
        "preferences go round in circles, so that no reward explains them",
        "Two responses are drawn from π_ref; the log-odds of i against j are r_i − r_j + c sin(2π(i − j)/K), so that "
        "each response is beaten by others in a circle. No reward exists; `intransitivity` says by how many nats the "
        "worst triple goes round. The truth is the Nash policy of the game of being preferred with a penalty β "
        "KL(π‖π_ref), π* ∝ π_ref e^{p(·≻π*)/β}, which exists and is unique. DPO has a stationary policy as ever, with "
        "residual 0: the Bradley–Terry policy of the greatest likelihood, which depends on what is compared with "
        "what. Nothing in its certificate tells that it misses the preferences. At c = 0 rewards exist, but the Nash "
        "policy is not their π_ref e^{r/β}: it weighs probabilities of winning, not rewards.",
        "Munos et al. 2024 (Nash learning from human feedback)",
        non_transitive,
    ),
    World(
        "finite_data",
        "n pairs of the Bradley–Terry world, and nothing else is known",
        "n pairs are drawn from the world bradley_terry once, and their shares are the law of pairs; the truth stays "
        "that of the population, π* ∝ π_ref e^{r/β}. With a coverage below 1 only so large a share of all pairs of "
        "responses may be drawn at all. Where wins do not lead from each response to every other the maximum of the "
        "likelihood lies at infinity or is left open: `didsim.identify` says so of the same pairs. `draw_finite` does "
        "it to any world.",
        "Zermelo 1929; Ford 1957",
        finite_data,
    ),
    World(
        "boilerplate",
        "several prompts share popular responses, which are neither good nor bad",
        "Under π_ref the first few responses are popular at every prompt; their reward is 0, and that of all others "
        "is drawn anew at each prompt. Pairs are labelled as in bradley_terry, and the truth is π* ∝ π_ref e^{r/β}. "
        "The popular responses carry less pointwise mutual information with the prompt than the others do: this "
        "is what RMiPO's margin looks at. The prior is what the reference says without a prompt, for an unprompted "
        "margin or MI-DPO with prior=given. DPO at this β ends at the truth, popularity or not.",
        "RMiPO paper",
        boilerplate,
    ),
    World(
        "length_bias",
        "sequences whose labeller likes them long",
        "Responses are sequences of unequal lengths. The labeller prefers by r(y) + b|y|, but the truth is π* ∝ π_ref "
        "e^{r/β}: length is worth nothing. DPO at this β takes the bias over and ends at π* e^{b|y|/β}; R-DPO at α = "
        "b subtracts it and ends at the truth. Averages over tokens (dpo_norm, simpo) treat length in their own ways, "
        "and end elsewhere.",
        "Singhal et al. 2023; Park et al. 2024",
        length_bias,
    ),
    World(
        "restricted",
        "a log-linear policy class that does not contain the truth",
        "The pairs and the truth of bradley_terry, with policies restricted to π_ref e^{φ·w} of d random features. "
        "The truth π* ∝ π_ref e^{r/β} is not of this class unless d ≥ K − 1. The best policy of the class, in "
        "KL(π*‖π), is `best_in_class`: no method comes nearer in this sense, and how much worse each of them is "
        "depends on what pairs it sees and on its loss.",
        "Nika et al. 2024; Xu et al. 2024",
        restricted,
    ),
    World(
        "suboptimal_reference",
        "π_ref gives the good responses next to no probability",
        "A few responses are good, and π_ref gives each of them a probability of 1e-4; it excludes nothing. Their "
        "reward exceeds that of others by β log 1e4, so that the truth π* ∝ π_ref e^{r/β} gives each of them as much "
        "as all others together, rewards apart. Pairs are drawn from π_ref and labelled as in bradley_terry. DPO of "
        "the population ends at the truth at this β; but drawn pairs hardly ever show a good response, unless another "
        "sampler is given, and training has far to go. Below a mass of 1e-5 float64 hardly resolves where that end is: "
        "`didsim solve` then says so, and the closed form remains.",
        "Xu et al. 2024; Song et al. 2024 (coverage)",
        suboptimal_reference,
    ),
)

WORLDS: Mapping[str, World] = MappingProxyType({world.name: world for world in _WORLDS})
"""Every world, by name."""
