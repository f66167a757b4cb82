"""What finite datasets can tell, against reachability, linear programming, high precision, and optimisers."""

import itertools
import math
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from mpmath import mp, mpf
from oracles.bradley_terry import choix_scores, newton_scores, sklearn_scores
from scipy.optimize import linprog, minimize

import didsim as ds
from didsim.identification import (
    bayes_accuracy,
    fisher_information,
    identify,
    observed_information,
    predicted_error,
)

MODEST = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)

ROUNDING = 1e-13
"""Some hundred roundings of float64: what is compared is a sum of at most K³ ≤ 1e3 positive terms of factors that
are right to a few, or has log-probabilities of up to 100 in an exponent."""


def near(value, relative):
    """pytest.approx without the absolute tolerance of 1e-12 that it has by default."""
    return pytest.approx(value, rel=relative, abs=0.0)


def dataset(pairs, num_classes, prompts=None, num_prompts=1):
    chosen, rejected = zip(*pairs, strict=True)
    return ds.PreferenceDataset.from_classes(chosen, rejected, num_classes, prompts, num_prompts)


def judged(pairs, num_classes):
    return identify(dataset(pairs, num_classes), num_classes)


def free_problem(chosen, rejected, reference=None, prompts=None):
    """A problem with any chosen and rejected distributions."""
    reference = chosen if reference is None else reference
    policies = [ds.Policy.from_probs(p) for p in (reference, reference, rejected, chosen)]
    return ds.Problem(*policies, prompts=prompts)


def random_problem(seed, num_classes=4, spread=1.0):
    rng = np.random.default_rng(seed)
    return free_problem(*(ds.Policy.from_logits(spread * rng.standard_normal(num_classes)).probs for _ in range(3)))


@st.composite
def some_pairs(draw):
    """Pairs over 2 to 6 classes, ties included, so few that all statuses come up."""
    num_classes = draw(st.integers(2, 6))
    classes = st.integers(0, num_classes - 1)
    return draw(st.lists(st.tuples(classes, classes), min_size=1, max_size=12)), num_classes


def reachable(pairs, num_classes, both_ways=False):
    """Whether wins lead from i to j, by trying every class on the way."""
    reach = [[i == j for j in range(num_classes)] for i in range(num_classes)]
    for i, j in pairs:
        reach[i][j] = True
        reach[j][i] = reach[j][i] or both_ways
    for via, i, j in itertools.product(range(num_classes), repeat=3):
        reach[i][j] = reach[i][j] or (reach[i][via] and reach[via][j])
    return reach


CYCLE = [(0, 1), (1, 2), (2, 0)]
CHAIN = [(0, 1), (1, 2)]

CASES = {
    # name: pairs, K, status, weak, strong, survivors
    "one class": ([(0, 0)], 1, "exists", [0], [0], [1]),
    "a win each": ([(0, 1), (1, 0)], 2, "exists", [0, 0], [0, 0], [1, 1]),
    "one win": ([(1, 0)], 2, "at-infinity", [0, 0], [0, 1], [0, 1]),
    "nothing but ties": ([(0, 0), (1, 1)], 2, "not-identified", [0, 1], [0, 1], [1, 1]),
    "a cycle": (CYCLE, 3, "exists", [0, 0, 0], [0, 0, 0], [1, 1, 1]),
    "a chain": (CHAIN, 3, "at-infinity", [0, 0, 0], [0, 1, 2], [1, 0, 0]),
    "a cycle that beats one": ([*CYCLE, (1, 3)], 4, "at-infinity", [0] * 4, [0, 0, 0, 3], [1, 1, 1, 0]),
    "a cycle beaten by one": ([*CYCLE, (3, 1)], 4, "at-infinity", [0] * 4, [0, 0, 0, 3], [0, 0, 0, 1]),
    "two unbeaten": ([(0, 2), (1, 2)], 3, "at-infinity", [0, 0, 0], [0, 1, 2], [1, 1, 0]),
    "two groups": ([(0, 3), (3, 0), (1, 2), (2, 1)], 4, "not-identified", [0, 1, 1, 0], [0, 1, 1, 0], [1] * 4),
    "two groups, one at infinity": (
        [(0, 3), (1, 2), (2, 1)],
        4,
        "not-identified",
        [0, 1, 1, 0],
        [0, 1, 1, 3],
        [1, 1, 1, 0],
    ),
    "a class never compared": ([*CYCLE, (3, 3)], 4, "not-identified", [0, 0, 0, 3], [0, 0, 0, 3], [1] * 4),
    "all pairs": (list(itertools.permutations(range(5), 2)), 5, "exists", [0] * 5, [0] * 5, [1] * 5),
}


class TestIdentify:
    @pytest.mark.parametrize(("pairs", "k", "status", "weak", "strong", "survivors"), CASES.values(), ids=CASES)
    def test_cases_by_hand(self, pairs, k, status, weak, strong, survivors):
        found = judged(pairs, k)
        assert (found.status, found.statuses) == (status, (status,))
        assert found.weak.tolist() == [weak]
        assert found.strong.tolist() == [strong]
        assert found.survivors.tolist() == [[bool(x) for x in survivors]]
        assert (found.num_pairs, found.num_ties) == (len(pairs), sum(i == j for i, j in pairs))

    @hypothesis.given(some_pairs())
    @MODEST
    def test_components_are_those_of_reachability(self, drawn):
        pairs, k = drawn
        found, reach, linked = judged(pairs, k), reachable(pairs, k), reachable(pairs, k, both_ways=True)
        assert found.weak[0].tolist() == [min(j for j in range(k) if linked[i][j]) for i in range(k)]
        mutual = [[j for j in range(k) if reach[i][j] and reach[j][i]] for i in range(k)]
        assert found.strong[0].tolist() == [min(together) for together in mutual]
        unbeaten = [all(reach[i][j] for j in range(k) if reach[j][i]) for i in range(k)]
        assert found.survivors[0].tolist() == unbeaten

    @hypothesis.given(some_pairs())
    @MODEST
    def test_the_status_is_that_of_rank_and_separability(self, drawn):
        """Albert and Anderson (1984): no finite maximum where a direction lowers no margin and raises some."""
        pairs, k = drawn
        design = np.eye(k)[[i for i, _ in pairs]] - np.eye(k)[[j for _, j in pairs]]
        limits = np.repeat([1.0, 0.0], len(pairs))
        direction = linprog(-design.sum(axis=0), np.concatenate([design, -design]), limits, bounds=(-k, k))
        separable = -direction.fun > 0.5
        connected = np.linalg.matrix_rank(design) == k - 1
        want = "not-identified" if not connected else "at-infinity" if separable else "exists"
        found = judged(pairs, k)
        assert found.status == want
        assert found.survivors.all() == (not separable)

    @hypothesis.given(some_pairs(), st.randoms(use_true_random=False))
    @MODEST
    def test_names_and_order_do_not_matter(self, drawn, random):
        pairs, k = drawn
        new = random.sample(range(k), k)
        renamed = [(new[i], new[j]) for i, j in random.sample(pairs, len(pairs))]
        before, after = judged(pairs, k), judged(renamed, k)
        assert before.status == after.status
        assert before.survivors[0].tolist() == after.survivors[0][new].tolist()
        for i, j in itertools.combinations(range(k), 2):
            for one, other in ((before.weak, after.weak), (before.strong, after.strong)):
                assert (one[0, i] == one[0, j]) == (other[0, new[i]] == other[0, new[j]])

    @hypothesis.given(st.lists(some_pairs(), min_size=2, max_size=4))
    @MODEST
    def test_each_prompt_is_judged_as_if_alone(self, drawn):
        k = max(k for _, k in drawn)
        pairs = [pair for one, _ in drawn for pair in one]
        rows = [x for x, (one, _) in enumerate(drawn) for _ in one]
        found = identify(dataset(pairs, k, rows, len(drawn)), k, len(drawn))
        alone = [judged(one, k) for one, _ in drawn]
        assert found.statuses == tuple(one.status for one in alone)
        for name in ("weak", "strong", "survivors"):
            assert getattr(found, name).tolist() == [getattr(one, name)[0].tolist() for one in alone]
        worst = max(alone, key=lambda one: ("exists", "at-infinity", "not-identified").index(one.status))
        assert found.status == worst.status
        assert found.sentence.endswith(f": {worst.sentence}")

    def test_a_prompt_without_pairs_is_not_identified(self):
        found = identify(dataset([(0, 1), (1, 0)], 2, [2, 2], 3), 2, 3)
        assert found.statuses == ("not-identified", "not-identified", "exists")
        assert found.weak.tolist() == [[0, 1], [0, 1], [0, 0]]

    def test_repeated_pairs_change_nothing_but_their_number(self):
        once, often = judged(CHAIN, 3), judged(CHAIN * 50, 3)
        assert once.strong.tolist() == often.strong.tolist()
        assert (once.sentence, often.num_pairs) == (often.sentence, 100)


class TestSentences:
    @pytest.mark.parametrize(
        ("pairs", "k", "want"),
        [
            (CYCLE, 3, "exists and is unique: wins lead from every response to every other."),
            (CHAIN, 3, "does not exist: response 0 never loses, so its probability grows to 1 as training goes on."),
            (
                [*CYCLE, (0, 3)],
                4,
                "does not exist: response 3 never wins, so its probability falls to 0 as training goes on.",
            ),
            (
                [(3, 7), (7, 3), *((3, i) for i in (0, 1, 2, 4, 5, 6))],
                8,
                "does not exist: no response of {3, 7} ever loses to one outside, so their probability grows to 1 "
                "as training goes on.",
            ),
            (
                [*CYCLE, (0, 3), (0, 4)],
                5,
                "does not exist: no response of {3, 4} ever beats one outside, so their probability falls to 0 "
                "as training goes on.",
            ),
            (
                [(i, 9) for i in range(9)] + [(i, 8) for i in range(7)],
                10,
                "does not exist: no response of {8, 9} ever beats one outside, so their probability falls to 0 as "
                "training goes on. The data leave open the ratio between the groups {0}, {1}, {2}, {3}, {4}, {5}, "
                "… 2 more.",
            ),
            (
                [(0, 1), (1, 0)],
                7,
                "open: the groups {0, 1}, {2}, {3}, {4}, {5}, {6} were never compared with each other, so the "
                "ratio of their probabilities is unknown.",
            ),
            (
                [(0, i) for i in range(1, 9)],
                10,
                "open: the groups {0, 1, 2, 3, 4, 5, … 3 more}, {9} were never compared with each other, so the ratio "
                "of their probabilities is unknown. Nor does it exist within each group: the probability of "
                "{1, 2, 3, 4, 5, 6, … 2 more} falls to 0 there.",
            ),
        ],
    )
    def test_the_sentence_says_what_becomes_of_whom(self, pairs, k, want):
        assert judged(pairs, k).sentence.endswith(f"aximum-likelihood policy {want}")

    def test_prompts_are_counted_and_the_worst_is_named(self):
        rows = [0, 0, 1, 2]
        found = identify(dataset([(0, 1), (1, 0), (0, 1), (1, 0)], 2, rows, 3), 2, 3)
        want = "At 2 of 3 prompts, first at 1: The maximum-likelihood policy does not exist: response 0 never loses"
        assert found.sentence.startswith(want)


class TestBadDatasets:
    @pytest.mark.parametrize(
        ("sizes", "error", "match"),
        [
            ((2,), ValueError, r"num_classes must be a whole number from 3 to \d+; got 2"),
            ((3, 1), ValueError, r"num_prompts must be a whole number from 2 to \d+; got 1"),
            ((3.0, 2), TypeError, "num_classes must be a whole number"),
            ((3, True), TypeError, "num_prompts must be a whole number"),
            ((10**7, 100), ValueError, "num_prompts × num_classes must be a whole number from 1 to 100000000"),
        ],
    )
    def test_sizes_must_hold_the_dataset(self, sizes, error, match):
        with pytest.raises(error, match=match):
            identify(dataset([(0, 2), (1, 2)], 3, [0, 1], 2), *sizes)

    @pytest.mark.parametrize(
        "scores", [[0.0, math.nan, 0.0], [0.0, -math.inf, 0.0], 0.0, [], [[[0.0, 1.0, 2.0]]]], ids=str
    )
    def test_scores_must_be_finite_and_of_shape(self, scores):
        with pytest.raises(ValueError, match=r"scores must be finite numbers \[K\], or \[X, K\] with prompts; got"):
            observed_information(dataset(CYCLE, 3), scores)

    def test_there_must_be_a_score_for_every_class_and_prompt(self):
        with pytest.raises(ValueError, match="num_classes must be a whole number from 3"):
            observed_information(dataset(CYCLE, 3), [0.0, 1.0])
        with pytest.raises(ValueError, match="num_prompts must be a whole number from 2"):
            observed_information(dataset(CYCLE, 3, [0, 1, 0], 2), [0.0, 1.0, 2.0])


def count_wins(pairs, num_classes):
    wins = np.zeros((num_classes, num_classes))
    np.add.at(wins, tuple(np.transpose(pairs)), 1.0)
    return wins


def loss_and_slope(scores, wins):
    """−log-likelihood of a table of wins, and its gradient."""
    margin = scores[:, None] - scores[None, :]
    flow = wins * (0.5 - 0.5 * np.tanh(0.5 * margin))
    return (wins * np.logaddexp(0.0, -margin)).sum(), flow.sum(axis=0) - flow.sum(axis=1)


def boxed(pairs, num_classes, bound, start=None):
    """The best scores with |s| ≤ bound, by a general optimiser."""
    start = np.zeros(num_classes) if start is None else start
    options = {"maxiter": 5000, "maxfun": 50_000, "ftol": 0.0, "gtol": 1e-12}
    return minimize(
        loss_and_slope,
        start,
        (count_wins(pairs, num_classes),),
        method="L-BFGS-B",
        jac=True,
        bounds=[(-bound, bound)] * num_classes,
        options=options,
    )


class TestAgainstAnOptimiser:
    @pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] == "exists"])
    def test_where_the_maximum_exists_it_is_found_inside_every_box(self, name):
        pairs, k, *_ = CASES[name]
        small, large = boxed(pairs, k, 10.0), boxed(pairs, k, 20.0, np.linspace(-3.0, 2.0, k))
        assert np.abs(small.x).max() < 9.0
        assert np.abs((small.x - small.x.mean()) - (large.x - large.x.mean())).max() < 1e-5

    @pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] == "at-infinity"])
    def test_where_it_lies_at_infinity_a_larger_box_gives_a_smaller_loss_and_the_survivors_all(self, name):
        pairs, k, *_, survivors = CASES[name]
        small, large = boxed(pairs, k, 5.0), boxed(pairs, k, 10.0)
        assert large.fun < small.fun
        assert np.ptp(large.x) == pytest.approx(20.0)
        left = [ds.Policy.from_logits(best.x).probs[~np.array(survivors, bool)].sum() for best in (small, large)]
        assert left[1] < 0.05 * left[0] < 0.01

    @pytest.mark.parametrize("name", ["two groups", "a class never compared"])
    def test_where_it_is_not_identified_two_starts_end_in_two_policies_that_fit_as_well(self, name):
        pairs, k, _, weak, *_ = CASES[name]
        apart = boxed(pairs, k, 10.0, np.where(np.array(weak) == 0, 2.0, -2.0))
        equal = boxed(pairs, k, 10.0)
        assert apart.fun == pytest.approx(equal.fun, abs=1e-10)
        assert np.ptp(apart.x - equal.x) == pytest.approx(4.0, abs=1e-5)


def exact_log_probs(policy):
    with mp.workdps(60):
        weights = [mp.exp(mpf(float(x))) for x in policy.log_probs]
        return [mp.log(weight) - mp.log(mp.fsum(weights)) for weight in weights]


def high_precision_hessian(function, k):
    """∂²f/∂s_i∂s_j at 0 by central differences, whose error h² and rounding are both below 1e-25."""
    with mp.workdps(60):
        h = mpf(10) ** -14

        def at(i, j, a, b):
            s = [mpf(0)] * k
            s[i] += a * h
            s[j] += b * h
            return function(s)

        signs = list(itertools.product((1, -1), repeat=2))
        return np.array(
            [
                [float(mp.fsum(a * b * at(i, j, a, b) for a, b in signs) / (4 * h * h)) for j in range(k)]
                for i in range(k)
            ]
        )


def expected_log_likelihood(problem):
    """The mean of log σ(s_i − s_j) over pairs, as a function of the shift of s from log w/l."""
    w, l = exact_log_probs(problem.chosen), exact_log_probs(problem.rejected)  # noqa: E741
    classes = range(len(w))

    def value(shift):
        s = [w[i] - l[i] + shift[i] for i in classes]
        return -mp.fsum(
            mp.exp(w[i] + l[j]) * mp.log(1 + mp.exp(s[j] - s[i])) for i in classes for j in classes if i != j
        )

    return value


class TestFisherInformation:
    @pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.75, 0.25), (0.9, 0.2)])
    def test_two_classes_by_hand(self, a, b):
        shown = a * (1 - b) + (1 - a) * b
        p = a * (1 - b) / shown
        information = shown * p * (1 - p)
        got = fisher_information(free_problem([a, 1 - a], [b, 1 - b]))
        assert got == near(information * np.array([[1, -1], [-1, 1]]), ROUNDING)

    def test_uniform_pairs_make_a_complete_graph(self):
        got = fisher_information(free_problem(np.full(5, 0.2), np.full(5, 0.2)))
        assert got == pytest.approx((5 * np.eye(5) - 1) / 50, abs=1e-16)

    @pytest.mark.parametrize("seed", range(6))
    def test_it_is_the_curvature_of_the_expected_log_likelihood(self, seed):
        problem = random_problem(seed, num_classes=2 + seed % 3, spread=0.5 + seed)
        want = -high_precision_hessian(expected_log_likelihood(problem), problem.num_classes)
        got = fisher_information(problem)
        assert np.abs(got - want).max() <= ROUNDING * want.max()
        assert np.abs(got / want - 1).max() <= 1e-9  # also of small entries, to what the differences resolve

    @pytest.mark.parametrize("seed", range(3))
    def test_the_model_holds_so_the_curvature_is_the_variance_of_the_slope(self, seed):
        problem = random_problem(seed, num_classes=5, spread=2.0)
        w, l = problem.chosen.probs, problem.rejected.probs  # noqa: E741
        variance = np.zeros((5, 5))
        for i, j in itertools.product(range(5), repeat=2):
            surprise = w[j] * l[i] / (w[i] * l[j] + w[j] * l[i])
            direction = np.eye(5)[i] - np.eye(5)[j]
            variance += w[i] * l[j] * surprise**2 * np.outer(direction, direction)
        assert fisher_information(problem) == near(variance, 1e-12)

    def test_prompts_have_blocks_of_their_share(self):
        problem = ds.Problem.from_temperature(5, num_prompts=2, seed=1)
        weighted = free_problem(problem.chosen.probs, problem.rejected.probs, prompts=[0.2, 0.8])
        got = fisher_information(weighted)
        for x, share in enumerate((0.2, 0.8)):
            alone = fisher_information(free_problem(problem.chosen.probs[x], problem.rejected.probs[x]))
            assert got[x] == near(share * alone, ROUNDING)

    def test_a_class_that_is_never_shown_or_always_wins_has_none(self):
        got = fisher_information(free_problem([0.4, 0.2, 0.4, 0.0], [0.5, 0.5, 0.0, 0.0]))
        assert np.all(got[2:] == 0)
        assert got[0, 1] == pytest.approx(-0.4 * 0.5 * 0.2 * 0.5 / 0.3)

    def test_tables_too_large_are_refused(self):
        with pytest.raises(ValueError, match="prompts × responses² must be a whole number from 1 to 100000000"):
            fisher_information(ds.Problem.from_temperature(10_001))


class TestObservedInformation:
    PAIRS = ((0, 1), (0, 1), (1, 0), (1, 2), (2, 0), (2, 2), (0, 2), (1, 1))
    SCORES = (0.5, -1.25, 2.0)

    def test_it_is_the_curvature_of_the_log_likelihood(self):
        def log_likelihood(shift):
            s = [mpf(score) + step for score, step in zip(self.SCORES, shift, strict=True)]
            return -mp.fsum(mp.log(1 + mp.exp(s[j] - s[i])) for i, j in self.PAIRS) / len(self.PAIRS)

        got = observed_information(dataset(self.PAIRS, 3), self.SCORES)
        want = -high_precision_hessian(log_likelihood, 3)
        assert np.abs(got - want).max() <= ROUNDING

    def test_pairs_in_the_proportions_of_a_problem_inform_as_it_does(self):
        chosen, rejected = np.array([5, 2, 3]), np.array([2, 4, 4])
        pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(chosen[i] * rejected[j])]
        want = fisher_information(free_problem(chosen / 10, rejected / 10))
        assert observed_information(dataset(pairs, 3), np.log(chosen / rejected)) == near(want, ROUNDING)

    def test_a_common_shift_and_the_order_within_pairs_do_not_matter(self):
        turned = [(j, i) for i, j in self.PAIRS]
        base = observed_information(dataset(self.PAIRS, 3), self.SCORES)
        assert observed_information(dataset(turned, 3), np.add(self.SCORES, 8.0)) == near(base, 1e-13)

    def test_scores_far_apart_inform_little_but_not_nothing(self):
        got = observed_information(dataset([(0, 1)], 2), [700.0, 0.0])
        assert got[0, 0] == near(math.exp(-700), 1e-12)
        assert observed_information(dataset([(0, 1)], 2), [0.0, 700.0]) == near(got, 1e-12)

    def test_prompts_have_blocks_of_their_share(self):
        scores = np.array([self.SCORES, [0.0, 1.0, -1.0]])
        got = observed_information(dataset(self.PAIRS, 3, [0, 1] * 4, 2), scores)
        for x in range(2):
            alone = observed_information(dataset(self.PAIRS[x::2], 3), scores[x])
            assert got[x] == near(0.5 * alone, ROUNDING)


def high_precision_std(problem, num_pairs, beta, prior=None):
    """The standard deviations of log π̂, by inverting the information with the last score fixed."""
    with mp.workdps(120):
        w, l = ([mp.exp(x) for x in exact_log_probs(p)] for p in (problem.chosen, problem.rejected))  # noqa: E741
        zeta = [mp.exp(x) for x in exact_log_probs(prior or problem.reference)]
        tilted = [z * (a / b) ** (1 / mpf(beta)) for z, a, b in zip(zeta, w, l, strict=True)]
        pi = [t / mp.fsum(tilted) for t in tilted]
        k = len(pi)
        information = mp.matrix(k, k)
        for i, j in itertools.permutations(range(k), 2):
            c = w[i] * l[j] * w[j] * l[i] / (w[i] * l[j] + w[j] * l[i])
            information[i, j] -= c
            information[i, i] += c
        inverse = information[: k - 1, : k - 1] ** -1
        deviations = []
        for i in range(k):
            a = mp.matrix([(i == j) - pi[j] for j in range(k - 1)])
            deviations.append(float(mp.sqrt((a.T * inverse * a)[0] / num_pairs) / mpf(beta)))
        return np.array(deviations), float(mp.fsum(p * mpf(s) ** 2 for p, s in zip(pi, deviations, strict=True)) / 2)


EXTREME = 4e-12
"""Log-probabilities of up to 1e3 in an exponent, each right to half a unit in its last place, taken to 1/β."""


class TestPredictedError:
    def test_two_classes_by_hand(self):
        got = predicted_error(free_problem([0.5, 0.5], [0.8, 0.2]), 100, beta=0.5)
        pi = np.array([0.5 * (0.5 / 0.8) ** 2, 0.5 * (0.5 / 0.2) ** 2])
        pi /= pi.sum()
        information = 0.1 * 0.4 / 0.5
        assert got.std_log_prob == near(pi[::-1] / 0.5 / math.sqrt(100 * information), ROUNDING)
        assert got.kl == near(0.5 * pi[0] * pi[1] / 0.25 / (100 * information), ROUNDING)

    @pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
    def test_nothing_to_learn_costs_one_over_n_for_each_free_class(self, beta):
        """With w = l = π_ref, I = ½(diag π − π πᵀ): the quadratic form of KL itself, so KL ≈ (K − 1)/(n β²)."""
        pi = ds.Policy.from_logits(4.0 * np.random.default_rng(0).standard_normal(7)).probs
        got = predicted_error(free_problem(pi, pi), 1000, beta)
        assert got.kl == near(6 / (1000 * beta**2), ROUNDING)
        assert got.js == near(1.5 / (1000 * beta**2), ROUNDING)
        assert got.std_log_prob == near(np.sqrt(2 * (1 - pi) / pi / 1000) / beta, ROUNDING)

    @pytest.mark.parametrize(("spread", "beta"), [(1.0, 0.5), (4.0, 1.0), (8.0, 0.5), (20.0, 2.0), (30.0, 1.0)])
    def test_high_precision_agrees_however_far_the_probabilities_span(self, spread, beta):
        problem = random_problem(5, num_classes=7, spread=spread)
        got = predicted_error(problem, 50, beta)
        std, kl = high_precision_std(problem, 50, beta)
        assert got.std_log_prob == near(std, EXTREME)
        assert got.kl == near(kl, EXTREME)

    @pytest.mark.parametrize("tau", [0.05, 0.5, 4.0])
    def test_high_precision_agrees_in_the_did_world(self, tau):
        problem = ds.Problem.from_temperature(8, tau, seed=3)
        std, _ = high_precision_std(problem, 9, 1.0)
        assert predicted_error(problem, 9).std_log_prob == near(std, EXTREME)

    @pytest.mark.parametrize("rare", [1e-3, 1e-9, 1e-12])
    def test_two_groups_that_are_hardly_compared_are_told_apart_to_the_last_digits(self, rare):
        """Within the groups few pairs are shown: a pseudo-inverse by eigenvalues has one of its digits left here."""
        often, seldom = (1 - 3 * rare) / 3, rare
        problem = free_problem([often] * 3 + [seldom] * 3, [seldom] * 3 + [often] * 3, np.full(6, 1 / 6))
        std, _ = high_precision_std(problem, 10, 1.0)
        assert predicted_error(problem, 10).std_log_prob == near(std, EXTREME)

    def test_the_prior_takes_the_place_of_the_reference(self):
        problem, prior = random_problem(2), ds.Policy.from_probs([0.1, 0.2, 0.3, 0.4])
        got = predicted_error(problem, 10, 0.5, prior)
        assert got.std_log_prob == near(high_precision_std(problem, 10, 0.5, prior)[0], EXTREME)

    def test_four_times_the_pairs_halve_the_deviation_exactly(self):
        problem = random_problem(1)
        few, many = predicted_error(problem, 77, 0.3), predicted_error(problem, 308, 0.3)
        assert few.std_log_prob.tolist() == (2 * many.std_log_prob).tolist()
        assert (few.kl, few.js) == (4 * many.kl, 4 * many.js)
        assert (few.num_pairs, many.num_pairs) == (77, 308)
        assert few.information.tolist() == fisher_information(problem).tolist()

    def test_names_do_not_matter(self):
        problem, new = random_problem(4, num_classes=6, spread=3.0), [3, 5, 0, 1, 4, 2]
        renamed = free_problem(problem.chosen.probs[new], problem.rejected.probs[new], problem.reference.probs[new])
        before, after = predicted_error(problem, 10), predicted_error(renamed, 10)
        assert after.std_log_prob == near(before.std_log_prob[new], ROUNDING)
        assert after.kl == near(before.kl, ROUNDING)

    def test_each_prompt_has_its_share_of_the_pairs(self):
        shares = (0.25, 0.75)
        both = ds.Problem.from_temperature(5, num_prompts=2, seed=1)
        problem = free_problem(both.chosen.probs, both.rejected.probs, prompts=shares)
        got = predicted_error(problem, 400, 2.0)
        assert got.std_log_prob.shape == (2, 5)
        alone = [
            predicted_error(free_problem(both.chosen.probs[x], both.rejected.probs[x]), int(400 * share), 2.0)
            for x, share in enumerate(shares)
        ]
        for x in range(2):
            assert got.std_log_prob[x] == near(alone[x].std_log_prob, ROUNDING)
        assert got.kl == near(0.25 * alone[0].kl + 0.75 * alone[1].kl, ROUNDING)
        assert got.information.shape == (2, 5, 5)

    def test_one_class_is_known(self):
        assert predicted_error(free_problem([1.0], [1.0]), 1).std_log_prob.tolist() == [0.0]

    @pytest.mark.parametrize(
        ("problem", "arguments", "error", "match"),
        [
            (random_problem(0), (0,), ValueError, "num_pairs must be a whole number from 1"),
            (random_problem(0), (1.5,), TypeError, "num_pairs must be a whole number"),
            (random_problem(0), (10, 0.0), ValueError, "beta must be a finite number in"),
            (random_problem(0), (10, 1.0, [0.5, 0.5]), ValueError, "the number of classes of prior must be 4"),
            (
                free_problem([0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [0.2, 0.4, 0.4]),
                (10,),
                ValueError,
                "information about each class",
            ),
            (free_problem([0.5, 0.5, 0.0], [0.5, 0.5, 0.0]), (10,), ValueError, "information about each class"),
            (free_problem([0.4, 0.3, 0.3], [0.5, 0.5, 0.0]), (10,), ValueError, "ratio of the two policies"),
            (ds.Problem.from_temperature(4, num_features=2), (10,), ValueError, "the policy must be a free table"),
        ],
    )
    def test_a_bad_question_says_what_is_wrong(self, problem, arguments, error, match):
        with pytest.raises(error, match=match):
            predicted_error(problem, *arguments)


REPEATS, PAIRS, BETA = 10_000, 100_000, 0.5


class Study(NamedTuple):
    """Datasets drawn, and their likeliest scores found, without the package."""

    problem: ds.Problem
    wins: np.ndarray
    scores: np.ndarray

    @property
    def log_probs(self):
        logits = np.log(self.problem.reference.probs) + self.scores / BETA
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    @property
    def optimum(self):
        logits = np.log(self.problem.reference.probs) + true_scores(self.problem) / BETA
        return logits - np.log(np.exp(logits).sum())


def true_scores(problem):
    return np.log(problem.chosen.probs / problem.rejected.probs)


@pytest.fixture(scope="module")
def study():
    problem = random_problem(6)
    table = np.outer(problem.chosen.probs, problem.rejected.probs)
    wins = np.random.default_rng(1).multinomial(PAIRS, table.ravel(), REPEATS).reshape(-1, 4, 4)
    start, options = true_scores(problem), {"gtol": 1e-3}
    scores = [minimize(loss_and_slope, start, (one,), "BFGS", jac=True, options=options).x for one in wins]
    return Study(problem, wins, np.array(scores))


@pytest.mark.slow
class TestAgainstSimulation:
    def test_the_fits_have_converged_to_a_thousandth_of_a_deviation(self, study):
        deviation = BETA * predicted_error(study.problem, PAIRS, BETA).std_log_prob
        for wins, scores in zip(study.wins[:50], study.scores, strict=False):
            chosen, rejected = np.nonzero(wins)
            counts = wins[chosen, rejected]
            exact = newton_scores(np.repeat(chosen, counts), np.repeat(rejected, counts), 4)
            assert np.all(np.abs(scores - scores.mean() - exact) < 1e-3 * deviation)

    def test_the_divergences_have_the_predicted_mean(self, study):
        predicted = predicted_error(study.problem, PAIRS, BETA)
        log_p, log_q = study.optimum, study.log_probs
        middle = np.logaddexp(log_p, log_q) - math.log(2)
        kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        js = 0.5 * (np.exp(log_p) * (log_p - middle) + np.exp(log_q) * (log_q - middle)).sum(axis=1)
        for sample, mean in ((kl, predicted.kl), (js, predicted.js)):
            standard_error = sample.std() / math.sqrt(REPEATS)
            assert standard_error < 0.015 * mean
            assert abs(sample.mean() - mean) < 3 * standard_error

    def test_the_log_probabilities_have_the_predicted_deviation(self, study):
        deviation = np.sqrt(((study.log_probs - study.optimum) ** 2).mean(axis=0))
        ratio = deviation / predicted_error(study.problem, PAIRS, BETA).std_log_prob
        assert np.abs(ratio - 1).max() < 3 / math.sqrt(2 * REPEATS)

    def test_the_better_response_wins_as_often_as_no_judge_can_beat(self, study):
        better = np.heaviside(true_scores(study.problem)[:, None] - true_scores(study.problem)[None, :], 0.5)
        share = (study.wins * better).sum() / (REPEATS * PAIRS)
        assert share == pytest.approx(bayes_accuracy(study.problem), abs=3 * 0.5 / math.sqrt(REPEATS * PAIRS))


class TestBayesAccuracy:
    def test_two_classes_by_hand(self):
        # (0, 1) comes with 0.8·0.6, (1, 0) with 0.2·0.4; of the rest each half is right by chance
        assert bayes_accuracy(free_problem([0.8, 0.2], [0.4, 0.6])) == pytest.approx(0.48 + 0.5 * 0.44)

    def test_where_there_is_nothing_to_tell_it_is_a_half(self):
        assert bayes_accuracy(free_problem([0.2, 0.3, 0.5], [0.2, 0.3, 0.5])) == pytest.approx(0.5)

    def test_where_the_two_never_meet_it_is_one(self):
        problem = free_problem([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25])
        assert bayes_accuracy(problem) == 1.0

    @pytest.mark.parametrize(
        "problem",
        [
            *(random_problem(seed, num_classes=5, spread=seed) for seed in range(5)),
            free_problem([0.6, 0.2, 0.0, 0.2, 0.0], [0.1, 0.4, 0.5, 0.0, 0.0], np.full(5, 0.2)),
        ],
    )
    def test_it_is_the_sum_over_pairs(self, problem):
        w, l = problem.chosen.probs, problem.rejected.probs  # noqa: E741
        total = sum(0.5 * w[i] * l[i] for i in range(5))
        for i, j in itertools.combinations(range(5), 2):
            total += max(w[i] * l[j], w[j] * l[i])
        assert bayes_accuracy(problem) == near(total, ROUNDING)

    def test_no_other_judge_is_right_more_often(self):
        problem, rng = random_problem(3, num_classes=5, spread=2.0), np.random.default_rng(0)
        for scores in rng.standard_normal((200, 5)):
            right = np.heaviside(scores[:, None] - scores[None, :], 0.5)
            assert problem.chosen.probs @ right @ problem.rejected.probs <= bayes_accuracy(problem) + ROUNDING

    def test_prompts_count_by_their_weight(self):
        problem = free_problem([[0.8, 0.2], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]], prompts=[0.25, 0.75])
        assert bayes_accuracy(problem) == pytest.approx(0.25 * 0.7 + 0.75 * 0.5)

    def test_many_responses_are_no_obstacle(self):
        assert 0.5 < bayes_accuracy(ds.Problem.from_temperature(300_000)) < 1.0


def simulated_pairs(seed):
    """Pairs of uniformly drawn classes, labelled by a Bradley–Terry model; strongly connected at this size."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(3, 9))
    scores = 1.5 * rng.standard_normal(num_classes)
    first, second = rng.integers(0, num_classes, (2, int(rng.integers(300, 2000))))
    wins = rng.random(len(first)) < 1 / (1 + np.exp(scores[second] - scores[first]))
    return np.where(wins, first, second), np.where(wins, second, first), num_classes


NEWTON_CG = 1e-6
"""choix's optimiser stops when its step is small against the scores, not when the slope is."""


class TestParity:
    """Three other programs find the same scores, where `identify` says there are such."""

    @pytest.fixture(params=range(4))
    def pairs(self, request):
        chosen, rejected, num_classes = simulated_pairs(request.param)
        assert judged(list(zip(chosen, rejected, strict=True)), num_classes).status == "exists"
        return chosen, rejected, num_classes

    def test_newton_agrees_with_a_general_optimiser(self, pairs):
        chosen, rejected, k = pairs
        best = boxed(np.stack([chosen, rejected], axis=1), k, 20.0).x
        assert newton_scores(*pairs) == pytest.approx(best - best.mean(), abs=1e-5)

    def test_newton_ends_where_the_slope_is_zero(self, pairs):
        chosen, rejected, k = pairs
        _, slope = loss_and_slope(newton_scores(*pairs), count_wins(np.stack([chosen, rejected], axis=1), k))
        assert np.abs(slope).max() < 1e-12 * len(chosen)

    @pytest.mark.parametrize(("method", "tolerance"), [("opt_pairwise", NEWTON_CG), ("ilsr_pairwise", 1e-11)])
    def test_choix_finds_the_same_scores(self, pairs, method, tolerance):
        assert choix_scores(*pairs, method=method) == pytest.approx(newton_scores(*pairs), abs=tolerance)

    def test_scikit_learn_finds_the_same_scores(self, pairs):
        assert sklearn_scores(*pairs) == pytest.approx(newton_scores(*pairs), abs=1e-8)

    def test_newton_says_so_where_there_are_no_such_scores(self):
        with pytest.raises((ArithmeticError, np.linalg.LinAlgError)):
            newton_scores([0, 1], [1, 2], 3)
