"""What a finite set of preference pairs can tell: whether a maximum-likelihood policy exists, and how far off it is.

The model is p(i ≻ j) = σ(s_i − s_j) with the scores s = β log π/π_ref of DPO, or β log π; policies are free tables.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from didsim._arrays import ArrayLike, BoolArray, FloatArray, IntArray
from didsim._checks import POSITIVE, check_integer, check_number, message
from didsim.info import Distribution
from didsim.optima import dpo_optimum
from didsim.policy import MAX_CLASSES
from didsim.preference import MAX_NUMBERS, MAX_PROMPTS, PreferenceDataset, Problem

__all__ = [
    "AT_INFINITY",
    "EXISTS",
    "NOT_IDENTIFIED",
    "STATUSES",
    "Identification",
    "PredictedError",
    "bayes_accuracy",
    "fisher_information",
    "identify",
    "observed_information",
    "predicted_error",
]

EXISTS, AT_INFINITY, NOT_IDENTIFIED = STATUSES = ("exists", "at-infinity", "not-identified")
SHOWN = 6
"""How many classes, or groups of them, a sentence lists."""


@dataclass(frozen=True, eq=False)
class Identification:
    """What pairs say about their maximum-likelihood policy, for a loss that strictly decreases in the margin, as DPO's.

    With label smoothing, scores that are compared stay finite; an anchor on the chosen likelihood does not ensure it.

    Attributes:
        status: "exists": one finite maximum; "at-infinity": the scores are compared, but the likelihood grows as some
            of them diverge; "not-identified": some are not even compared. With prompts, the worst of the prompts'.
        statuses: the same of each of the X prompts.
        weak: the weak component of each class in the graph of winners and losers, called by its smallest class, [X, K].
            Between two of them nothing is known; a class never compared is alone.
        strong: the strong component of each class, likewise, [X, K]. Within one, wins lead from every class to every
            other, and the likelihood fixes the differences of the scores.
        survivors: the classes whose strong component no other has ever beaten, [X, K]. The probability of the rest
            falls to 0 within its weak component. The likelihood leaves open how several such components share what
            remains; gradient descent, by its pull to large margins (Soudry et al. 2018), may let one outgrow another.
        num_pairs: n.
        num_ties: how many of the pairs compare a class with itself; they are ignored.
        sentence: the same in plain words.
    """

    status: str
    statuses: tuple[str, ...]
    weak: IntArray
    strong: IntArray
    survivors: BoolArray
    num_pairs: int
    num_ties: int
    sentence: str


def identify(dataset: PreferenceDataset, num_classes: int, num_prompts: int = 1) -> Identification:
    """Say whether the maximum-likelihood policy of a dataset exists, lies at infinity, or is left open.

    It exists exactly if, at every prompt, wins lead from each of the K classes to each other (Zermelo 1929, Ford 1957).

    Raises:
        ValueError: if the dataset names a class or prompt that does not exist, or X·K is over 1e8.

    >>> identify(PreferenceDataset.from_classes([2, 0, 1], [0, 1, 0], num_classes=3), num_classes=3).sentence
    'The maximum-likelihood policy does not exist: response 2 never loses, so its probability grows to 1 as training
    goes on.'
    """
    graph = _win_graph(dataset, num_classes, num_prompts)
    weak, strong = (_components(graph, kind).reshape(num_prompts, -1) % num_classes for kind in ("weak", "strong"))
    survivors = _undominated(graph, strong)
    ranks = np.where(weak.any(axis=-1), 2, strong.any(axis=-1))  # connected classes are all in component 0
    worst, num_ties = int(np.argmax(ranks)), int(np.sum(dataset.chosen == dataset.rejected))
    statuses = tuple(STATUSES[rank] for rank in ranks)
    sentence = _words(statuses[worst], weak[worst], strong[worst], survivors[worst])
    if num_prompts > 1:
        sentence = f"At {statuses.count(statuses[worst])} of {num_prompts} prompts, first at {worst}: {sentence}"
    return Identification(statuses[worst], statuses, weak, strong, survivors, len(dataset), num_ties, sentence)


def _win_graph(dataset: PreferenceDataset, num_classes: int, num_prompts: int) -> coo_array:
    """Return the graph with an edge x·K + i → x·K + j for each win i ≻ j at prompt x; an edge i → i links nothing."""
    _check_dataset(dataset, num_classes, num_prompts)
    nodes = check_integer("num_prompts × num_classes", num_prompts * num_classes, 1, MAX_NUMBERS)
    start = dataset.prompts * num_classes
    edges = (start + dataset.chosen, start + dataset.rejected)
    return coo_array((np.ones(len(dataset)), edges), shape=(nodes, nodes))


def _components(graph: coo_array, connection: str) -> IntArray:
    """Return the component of each node, called by its smallest node, [X·K]."""
    _, labels = connected_components(graph, directed=True, connection=connection)
    _, smallest, index = np.unique(labels, return_index=True, return_inverse=True)
    return smallest[index].astype(np.int64)


def _undominated(graph: coo_array, strong: IntArray) -> BoolArray:
    """Tell the classes into whose strong component no edge leads from outside, [X, K]."""
    winners, losers = (np.unravel_index(nodes, strong.shape) for nodes in graph.coords)
    crossing = strong[winners] != strong[losers]
    dominated = np.zeros(strong.shape, dtype=bool)
    dominated[losers[0][crossing], strong[losers][crossing]] = True
    return ~np.take_along_axis(dominated, strong, axis=-1)


def _words(status: str, weak: IntArray, strong: IntArray, survivors: BoolArray) -> str:
    winners, losers = np.flatnonzero(survivors), np.flatnonzero(~survivors)
    if status == EXISTS:
        return "The maximum-likelihood policy exists and is unique: wins lead from every response to every other."
    if status == AT_INFINITY:
        text = f"The maximum-likelihood policy does not exist: {_divergence(winners, losers)}"
        unknown = f" The data leave open the ratio between the groups {_groups(strong[winners], winners)}."
        return text + (unknown if np.ptp(strong[winners]) else "")
    text = f"The data leave the maximum-likelihood policy open: the groups {_groups(weak, np.arange(len(weak)))} were "
    text += "never compared with each other, so the ratio of their probabilities is unknown."
    decay = f" Nor does it exist within each group: the probability of {_listed(losers)} falls to 0 there."
    return text + (decay if losers.size else "")


def _divergence(winners: IntArray, losers: IntArray) -> str:
    """Say which classes never lose or which never win, whichever are fewer."""
    won = len(winners) <= len(losers)
    few, fate = (winners, "grows to 1") if won else (losers, "falls to 0")
    if len(few) == 1:
        text = f"response {few[0]} never {'loses' if won else 'wins'}, so its"
    else:
        text = f"no response of {_listed(few)} ever {'loses to' if won else 'beats'} one outside, so their"
    return f"{text} probability {fate} as training goes on."


def _groups(components: IntArray, classes: IntArray) -> str:
    names = np.unique(components)
    return _shortened([_listed(classes[components == name]) for name in names[:SHOWN]], len(names))


def _listed(classes: IntArray) -> str:
    return "{" + _shortened([str(i) for i in classes[:SHOWN]], len(classes)) + "}"


def _shortened(shown: list[str], count: int) -> str:
    return ", ".join([*shown, f"… {count - SHOWN} more"] if count > SHOWN else shown)


def fisher_information(problem: Problem) -> FloatArray:
    """Return the expected Fisher information of one pair about the scores, given which two classes it compares.

    I = p(x) Σ_{i<j} ν_ij p_ij p_ji (e_i − e_j)(e_i − e_j)ᵀ, where ν_ij = w_i l_j + w_j l_i is how often i and j are
    compared, and p_ij = w_i l_j/ν_ij = σ(v_i − v_j) with v = log w/l how often i then wins: the model holds, with
    scores v, whatever w and l are. Where pairs are drawn jointly, P_ij stands for w_i l_j, and the model has to hold.
    It is in 1/nats², [K, K]; with prompts the block of each, [X, K, K].

    Raises:
        ValueError: if pairs are drawn jointly, and p_ij are no σ of differences of scores.

    >>> fisher_information(Problem.from_policies([0.5, 0.5], [0.5, 0.5]))
    array([[ 0.125, -0.125],
           [-0.125,  0.125]])
    """
    return _laplacian(_pair_information(problem))


def observed_information(dataset: PreferenceDataset, scores: ArrayLike) -> FloatArray:
    """Return −1/n of the Hessian of the log-likelihood at given scores, in the form of `fisher_information`.

    Args:
        dataset: n pairs; those of a class with itself count in n, and say nothing.
        scores: s = β log π/π_ref, or β log π, of a policy, up to a constant; [K], or [X, K] with prompts.

    Raises:
        ValueError: if a score is not finite, or the dataset names a class or prompt that has none.

    >>> observed_information(PreferenceDataset.from_classes([0, 0], [1, 0], num_classes=2), [0.0, 0.0])
    array([[ 0.125, -0.125],
           [-0.125,  0.125]])
    """
    values = np.array(scores, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(message("scores", "finite numbers [K], or [X, K] with prompts", values))
    table = np.atleast_2d(values)
    num_prompts, num_classes = table.shape
    _check_dataset(dataset, num_classes, num_prompts)
    check_integer("prompts × responses²", num_prompts * num_classes**2, 1, MAX_NUMBERS)
    x, i, j = dataset.prompts, dataset.chosen, dataset.rejected
    margin = table[x, i] - table[x, j]
    weights = np.zeros((*table.shape, num_classes))
    np.add.at(weights, (x, i, j), expit(margin) * expit(-margin) / len(dataset))
    return _laplacian(weights + weights.swapaxes(-1, -2)).reshape(*values.shape, num_classes)


@dataclass(frozen=True, eq=False)
class PredictedError:
    """How far the maximum-likelihood policy π̂ of n pairs lies from the population's optimum π°, to first order in 1/n.

    Attributes:
        kl: the mean of KL(π°‖π̂), or of KL(π̂‖π°), in nats, over datasets and prompts.
        js: the mean of JS(π°, π̂), in nats.
        std_log_prob: the standard deviation of log π̂ of each class, in nats, [K], or [X, K] with prompts.
        information: the Fisher information per pair, [K, K] or [X, K, K]; see `fisher_information`.
        num_pairs: n.
    """

    kl: float
    js: float
    std_log_prob: FloatArray
    information: FloatArray
    num_pairs: int


def predicted_error(
    problem: Problem, num_pairs: int, beta: float = 1.0, prior: Distribution | None = None
) -> PredictedError:
    """Predict how far off the DPO policy of the largest likelihood is, trained on n pairs of a problem.

    The scores ŝ have the covariance I⁺/n, and log π̂ − log π° = (1 − 1 π°ᵀ)(ŝ − s)/β; then KL ≈ ½ Σ_i π°_i Var log π̂_i,
    and JS a quarter of it. This holds for large n, given that π̂ exists: for every n there is a chance that it does
    not (see `identify`), so that the plain mean of KL(π°‖π̂) is infinite. Pairs of a class with itself count in n.

    Args:
        problem: where the pairs come from; chosen and rejected responses positive on every class, and their
            preferences σ of differences of scores if they are drawn jointly.
        num_pairs: n ≥ 1, over all prompts.
        beta: the β > 0 of the loss.
        prior: ζ of the scores β log π/ζ; π_ref by default.

    Raises:
        ValueError: if a class is never chosen or never rejected, or features restrict the policy.

    Source: van der Vaart (1998), Theorem 5.39.

    >>> predicted_error(Problem.from_policies([0.5, 0.5], [0.5, 0.5]), num_pairs=100).std_log_prob
    array([0.14142136, 0.14142136])
    """
    size, scale = check_integer("num_pairs", num_pairs, 1, 2**63 - 1), check_number("beta", beta, POSITIVE)
    weights = _pair_information(problem)
    if problem.features is not None:
        raise ValueError(message("the policy", "a free table", "a problem whose features restrict it"))
    optimum = dpo_optimum(problem, scale, prior)
    std = np.sqrt(_centred_variances(weights, optimum.probs)) / scale / np.sqrt(size)
    kl = 0.5 * float(problem.prompt_weights @ np.atleast_2d(optimum.probs * std**2).sum(axis=-1))
    return PredictedError(kl, 0.25 * kl, std, _laplacian(weights), size)


def bayes_accuracy(problem: Problem) -> float:
    """Return how often the better of two responses is the chosen one: no judge of fresh pairs is right more often.

    Σ_x p(x) Σ_{i<j} ν_ij max(p_ij, p_ji), and half of the pairs of a class with itself; a probability from ½ to 1. If
    the two are drawn independently, the better one has the larger log w/l, so that it is the chance that log w/l of a
    chosen response exceeds that of a rejected one. Where preferences are cyclic, no reward judges so well.

    >>> round(bayes_accuracy(Problem.from_policies([0.5, 0.5], [0.75, 0.25])), 6)
    0.625
    """
    if problem.pairs is not None:
        table = problem.pair_probs()
        return 0.5 * float(problem.prompt_weights @ np.maximum(table, table.swapaxes(-1, -2)).sum(axis=(-1, -2)))
    log_w, log_l = np.atleast_2d(problem.chosen.log_probs), np.atleast_2d(problem.rejected.log_probs)
    possible = np.maximum(log_w, log_l) > -np.inf
    order = np.argsort(np.subtract(log_w, log_l, out=np.zeros(possible.shape), where=possible), axis=-1)
    w, l = (np.exp(np.take_along_axis(p, order, axis=-1)) for p in (log_w, log_l))  # noqa: E741
    # where log w/l is equal, w_i l_j = w_j l_i, and either order gives the same sum
    return float(problem.prompt_weights @ (w * (np.cumsum(l, axis=-1) - 0.5 * l)).sum(axis=-1))


def _pair_information(problem: Problem) -> FloatArray:
    """Return p(x) ν_ij p_ij p_ji, [K, K] or [X, K, K]."""
    check_integer("prompts × responses²", problem.num_prompts * problem.num_classes**2, 1, MAX_NUMBERS)
    if problem.independent is None:
        got = "pairs that no scores explain, or that leave some open"
        raise ValueError(message("the preferences", "σ(v_i − v_j) of scores v", got, "Look at problem.preferences."))
    if problem.pairs is None:
        ordered = problem.chosen.log_probs[..., :, None] + problem.rejected.log_probs[..., None, :]
    else:
        ordered = np.log(problem.pairs, out=np.full(problem.pairs.shape, -np.inf), where=problem.pairs > 0.0)
    # a b/(a + b) = 1/(1/a + 1/b) with a = P_ij and b = P_ji, and 0 where either is
    weights = np.exp(-np.logaddexp(-ordered, -ordered.swapaxes(-1, -2)))
    return weights if problem.prompts is None else weights * problem.prompts[:, None, None]


def _laplacian(weights: FloatArray) -> FloatArray:
    """Return Σ_{i<j} c_ij (e_i − e_j)(e_i − e_j)ᵀ of symmetric weights c ≥ 0, [..., K, K], whatever the diagonal."""
    identity = np.eye(weights.shape[-1])
    between = weights * (1.0 - identity)
    return between.sum(axis=-1)[..., None] * identity - between


def _centred_variances(weights: FloatArray, probs: FloatArray) -> FloatArray:
    """Return the variance of s_i − Σ_j π_j s_j, [..., K], for scores s whose precision is the Laplacian of the weights.

    With the score of the most probable class 0, each next one is a mean of those before it plus independent noise:
    eliminating the classes from the last finds both without a subtraction. So each entry of the factor F ≥ 0 of the
    covariance F Fᵀ is accurate however unequal the probabilities are; a pseudo-inverse by eigenvalues loses digits.

    Source: Grassmann, Taksar and Heyman (1985).
    """
    order = np.argsort(-probs, axis=-1, kind="stable")
    rest = np.take_along_axis(np.take_along_axis(weights, order[..., :, None], -2), order[..., None, :], -1)
    factor = np.zeros_like(rest)
    for k in range(rest.shape[-1] - 1, 0, -1):
        total = rest[..., k, :k].sum(axis=-1)
        if np.any(total < np.finfo(np.float64).tiny):
            accepted = "at least 2e-308: each class chosen at times, and rejected at times"
            raise ValueError(message("the information about each class", accepted, float(total.min())))
        rest[..., k, :k] /= total[..., None]
        rest[..., :k, :k] += rest[..., :k, k, None] * rest[..., k, None, :k]
        factor[..., k, k] = total**-0.5
    for k in range(1, rest.shape[-1]):
        factor[..., k, :k] = (rest[..., k, None, :k] @ factor[..., :k, :k])[..., 0, :]
    mean = np.take_along_axis(probs, order, axis=-1)[..., None, :] @ factor
    return np.take_along_axis(((factor - mean) ** 2).sum(axis=-1), np.argsort(order, axis=-1), axis=-1)


def _check_dataset(dataset: PreferenceDataset, num_classes: int, num_prompts: int) -> None:
    check_integer("num_classes", num_classes, 1 + int(max(dataset.chosen.max(), dataset.rejected.max())), MAX_CLASSES)
    check_integer("num_prompts", num_prompts, 1 + int(dataset.prompts.max()), MAX_PROMPTS)
