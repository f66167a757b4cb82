"""What n pairs say of a policy: the maximum of the likelihood, whether it exists, and how far from the truth it is."""

from dataclasses import dataclass, replace

from didsim._arrays import FloatArray
from didsim._checks import POSITIVE, check_number
from didsim.identification import Identification, PredictedError, identify, observed_information, predicted_error
from didsim.info import Distribution
from didsim.objectives import objective
from didsim.policy import Policy, as_policy
from didsim.preference import PreferenceDataset, Problem
from didsim.stationary._solution import Solution
from didsim.stationary._solve import solve


@dataclass(frozen=True)
class MaximumLikelihood:
    """The maximum-likelihood policy of a finite dataset under p(i ≻ j) = σ(β h_i − β h_j), h = log π/ζ.

    Attributes:
        solution: the stationary policy of the dataset's DPO loss, with its certificate.
        identification: whether the maximum exists and is unique, by the graph of who beat whom.
        information: the Fisher information of a pair about the scores β h that the dataset shows, [K, K] or [X, K, K],
            in 1/nats²; None where there is no maximum.
        predicted: the error against the population's optimum that n such pairs lead one to expect where the maximum
            exists; None where the problem's own optimum is not finite, or the policy class is restricted.
        sentence: what the pairs determine, in words.
    """

    solution: Solution
    identification: Identification
    information: FloatArray | None
    predicted: PredictedError | None
    sentence: str

    @property
    def policy(self) -> Policy | None:
        """The maximum-likelihood policy; None where there is none."""
        return self.solution.policy if self.solution.status == "converged" else None


def maximum_likelihood(
    problem: Problem, dataset: PreferenceDataset, beta: float = 1.0, prior: Distribution | None = None
) -> MaximumLikelihood:
    """Return the maximum-likelihood policy of a dataset, with what its pairs determine.

    Args:
        problem: gives the reference, and the truth against which errors are predicted.
        dataset: the pairs.
        beta: β > 0 of the model.
        prior: ζ in place of π_ref; the uniform one makes it the Bradley–Terry model of log π. One prompt only.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    >>> problem = Problem.from_policies([0.5, 0.3, 0.2], [0.2, 0.2, 0.6])
    >>> pairs = PreferenceDataset.from_classes([0, 1, 2, 2], [1, 2, 0, 0], num_classes=3)
    >>> maximum_likelihood(problem, pairs).identification.status
    'exists'
    >>> maximum_likelihood(problem, PreferenceDataset.from_classes([2, 2], [0, 1], num_classes=3)).policy is None
    True
    """
    scale = check_number("beta", beta, POSITIVE)
    loss = objective("dpo", beta=scale)
    world = problem
    if prior is not None:
        world = replace(problem, prior=as_policy(prior))
        loss = objective("mi_dpo", prior="given", alpha=scale)
    solution = solve(world, loss, dataset=dataset, starts=1)
    identification = identify(dataset, problem.num_classes, problem.num_prompts)
    information = None
    if solution.status == "converged" and solution.policy is not None:
        anchor = problem.reference if prior is None else as_policy(prior)
        information = observed_information(dataset, scale * (solution.policy.log_probs - anchor.log_probs))
    return MaximumLikelihood(
        solution=solution,
        identification=identification,
        information=information,
        predicted=_predicted(problem, len(dataset), scale, prior),
        sentence=identification.sentence,
    )


def _predicted(problem: Problem, size: int, beta: float, prior: Distribution | None) -> PredictedError | None:
    """Return the error to expect of so many pairs, or None where the population's optimum is not finite."""
    try:
        return predicted_error(problem, size, beta, prior)
    except ValueError:
        return None
