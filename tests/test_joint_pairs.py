"""Problems whose chosen and rejected responses are drawn together: what changes, and what must not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

import didsim as ds
from didsim.engine import Settings, plan_runs
from didsim.engine._draws import sample_pairs, sampled_blocks
from didsim.objectives import OBJECTIVES
from didsim.optima import CLOSED_FORMS, OF_MARGINS
from didsim.stationary import solve_alternating, solve_rounds

K = 4
EXACT = {"mode": "population", "dtype": "float64", "steps": 3, "record_every": 1, "learning_rate": 0.1}


def random_problem(seed, k=K, prompts=None, space=None):
    """A product law that is no construction: four policies at random."""
    rng = np.random.default_rng(seed)
    shape = (k,) if prompts is None else (prompts, k)
    parts = [ds.Policy.from_logits(rng.standard_normal(shape)) for _ in range(4)]
    weights = None if prompts is None else rng.dirichlet(np.ones(prompts))
    return ds.Problem(*parts, prompts=weights, space=space)


def as_joint(problem, law=None):
    """The same problem, with its pairs, or others, given as a table."""
    table = problem.pair_probs() if law is None else law
    shape = (*problem.reference.log_probs.shape, problem.num_classes)
    given = {"prompts": problem.prompts, "space": problem.space, "features": problem.features}
    return ds.Problem.from_pairs(problem.reference, problem.target, np.reshape(table, shape), **given)


def consistent_law(scores, rng, compared=None):
    """P_ij = ν_ij σ(v_i − v_j), with ν symmetric and random: no product of margins."""
    frequency = np.triu(rng.random((len(scores), len(scores))) + 0.1)
    frequency = frequency + frequency.T
    if compared is not None:
        frequency = frequency * compared
    law = frequency / (1.0 + np.exp(scores[None, :] - scores[:, None]))
    return law / law.sum()


def ring(k):
    """Each response is compared with its neighbours, and with itself."""
    gap = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    return (gap <= 1) | (gap == k - 1)


def example_pairs(seed=0, k=K, compared=None, space=None):
    """A problem of joint pairs with scores, and the scores."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(k)
    problem = random_problem(seed + 1, k, space=space)
    return as_joint(problem, consistent_law(scores, rng, compared)), scores


def cyclic(k=3, odds=2.0):
    """Rock, scissors and paper, compared equally often."""
    wins = np.full((k, k), 0.5)
    for i in range(k):
        wins[i, (i + 1) % k], wins[(i + 1) % k, i] = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))
    return as_joint(random_problem(3, k), wins / wins.sum())


# --- a table that is a product ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "entropy_probe"])
@pytest.mark.parametrize("prompts", [None, 2])
def test_a_table_that_is_a_product_trains_as_the_product_does(name, prompts):
    problem = random_problem(5, prompts=prompts)
    jobs = [(world, ds.objective(name)) for world in (problem, as_joint(problem))]
    plain, joint = ds.train_many(jobs, optimiser="sgd", **EXACT)
    np.testing.assert_allclose(joint.policy.log_probs, plain.policy.log_probs, rtol=0, atol=1e-12)
    assert np.abs(plain.policy.log_probs - problem.reference.log_probs).max() > 1e-6
    columns = ["loss", "accuracy", "margin", "log_pi_chosen", "log_pi_rejected"]
    np.testing.assert_allclose(joint.frame[columns], plain.frame[columns], rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10**6), prompts=st.sampled_from([None, 1, 3]))
def test_margins_preferences_and_information_are_those_of_the_product(seed, prompts):
    problem = random_problem(seed, prompts=prompts)
    joint = as_joint(problem)
    for name in ("chosen", "rejected"):
        np.testing.assert_allclose(getattr(joint, name).probs, getattr(problem, name).probs, atol=1e-15)
    np.testing.assert_allclose(joint.preferences, problem.preferences, rtol=1e-12)
    np.testing.assert_allclose(ds.fisher_information(joint), ds.fisher_information(problem), atol=1e-15)
    assert ds.bayes_accuracy(joint) == pytest.approx(ds.bayes_accuracy(problem), abs=1e-14)
    np.testing.assert_allclose(ds.dpo_optimum(joint, 0.7).probs, ds.dpo_optimum(problem, 0.7).probs, rtol=1e-10)


@pytest.mark.parametrize("name", ["dpo", "simpo", "ipo", "robust_dpo", "kto", "nca", "hinge", "aot_unpaired"])
def test_a_table_that_is_a_product_is_solved_as_the_product_is(name):
    problem = random_problem(7)
    plain, joint = ds.solve(problem, ds.objective(name)), ds.solve(as_joint(problem), ds.objective(name))
    assert joint.status == plain.status
    if plain.policy is not None:
        np.testing.assert_allclose(joint.policy.probs, plain.policy.probs, atol=1e-9)


# --- draws ------------------------------------------------------------------------------------------------


def fits(cells, law):
    """Return the p-value of drawn cells under a law, [K, K]; cells of probability 0 must not be drawn."""
    counts = np.bincount(cells, minlength=law.size)
    assert np.all(counts[law.ravel() == 0.0] == 0)
    seen = law.ravel() > 0.0
    return chisquare(counts[seen], counts.sum() * law.ravel()[seen]).pvalue


@pytest.mark.parametrize("problem", [cyclic(), example_pairs(compared=ring(K))[0]], ids=["cyclic", "ring"])
def test_sampled_pairs_have_the_joint_law(problem):
    block = next(sampled_blocks(problem, seed=1, batch_size=500, block=100))
    k = problem.num_classes
    assert fits((block.chosen * k + block.rejected).ravel(), problem.pairs) > 1e-3
    product = problem.chosen.probs[:, None] * problem.rejected.probs
    reached = (block.chosen * k + block.rejected).ravel()
    assert chisquare(np.bincount(reached, minlength=k * k), 50_000 * product.ravel()).pvalue < 1e-10


def test_pairs_of_each_prompt_have_its_joint_law():
    rng = np.random.default_rng(0)
    law = np.stack([consistent_law(rng.standard_normal(K), rng) for _ in range(3)])
    problem = as_joint(random_problem(1, prompts=3), law)
    drawn = sample_pairs(problem, rng.random((60_000, 3)))
    assert np.array_equal(drawn.chosen // K, drawn.rejected // K)
    asked = np.bincount(drawn.chosen // K)
    assert chisquare(asked, 60_000 * problem.prompt_weights).pvalue > 1e-3
    for prompt in range(3):
        mine = drawn.chosen // K == prompt
        assert fits((drawn.chosen % K * K + drawn.rejected % K)[mine], law[prompt]) > 1e-3


def inverse(probs, uniforms):
    total = np.cumsum(probs)
    return np.searchsorted(total / total[-1], uniforms, side="right")


def test_uniforms_become_the_pairs_of_a_product_law_as_ever():
    problem, uniforms = random_problem(2, prompts=3), np.random.default_rng(4).random((50, 7, 3))
    drawn = sample_pairs(problem, uniforms)
    prompts = inverse(problem.prompt_weights, uniforms[..., 2])
    for place in np.ndindex(50, 7):
        x = prompts[place]
        sides = (problem.chosen.probs[x], problem.rejected.probs[x])
        want = [x * K + inverse(side, uniforms[place][n]) for n, side in enumerate(sides)]
        assert [drawn.chosen[place], drawn.rejected[place]] == want


def test_the_draws_of_a_joint_law_are_its_own():
    problem, other = cyclic(), cyclic(odds=1.0)
    digests = {problem.pair_digest, other.pair_digest, replace(problem, pairs=None).pair_digest}
    assert len(digests) == 3
    assert cyclic().pair_digest == problem.pair_digest
    # the margins of a cycle are uniform whatever the odds
    np.testing.assert_allclose(problem.chosen.probs, other.chosen.probs)


def test_sampled_training_in_a_list_and_in_a_table_agree():
    problem, loss = example_pairs(2)[0], ds.objective("dpo")
    tables, lists = (
        ds.train(problem, loss, steps=20, batch_size=64, dtype="float64", path=path) for path in ("table", "gather")
    )
    np.testing.assert_allclose(tables.policy.log_probs, lists.policy.log_probs, atol=1e-12)


# --- paths ------------------------------------------------------------------------------------------------


def test_sums_over_both_responses_apart_are_refused():
    with pytest.raises(ValueError, match="chosen and rejected responses are drawn together"):
        ds.train(cyclic(), ds.objective("dpo"), mode="population", path="sums", steps=1)


def test_large_spaces_fall_back_to_a_table(monkeypatch):
    monkeypatch.setattr("didsim.engine._plan.MOST_TABLED", 4)
    settings = Settings(mode="population", metrics=())
    problem = cyclic()
    assert plan_runs([(problem, ds.objective("dpo"))], settings).path == "table"
    plain = (replace(problem, pairs=None), ds.objective("dpo"))
    assert plan_runs([plain], settings).path == "sums"
    assert plan_runs([(problem, ds.objective("dpo")), plain], settings).path == "table"


# --- preferences and scores -------------------------------------------------------------------------------


def test_preferences_are_shares_of_comparisons():
    law = np.array([[0.1, 0.3, 0.0], [0.1, 0.0, 0.0], [0.2, 0.3, 0.0]])
    problem = ds.Problem.from_pairs([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], law)
    np.testing.assert_allclose(problem.preferences, [[0.5, 0.75, 0.0], [0.25, 0.5, 0.0], [1.0, 1.0, 0.5]])


def test_what_is_never_compared_has_no_preference():
    law = np.array([[0.0, 0.5, 0.0], [0.25, 0.0, 0.25], [0.0, 0.0, 0.0]])
    shares = ds.Problem.from_pairs([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], law).preferences
    assert np.isnan(shares[0, 2])
    assert np.isnan(shares[2, 0])
    assert shares[1, 2] == 1.0


@given(seed=st.integers(0, 10**6), k=st.integers(2, 6), sparse=st.booleans())
def test_scores_are_found_wherever_there_are_some(seed, k, sparse):
    rng = np.random.default_rng(seed)
    scores = 3.0 * rng.standard_normal(k)
    law = consistent_law(scores, rng, ring(k) if sparse else None)
    found = as_joint(random_problem(seed, k), law).independent
    v = found.chosen.log_probs - found.rejected.log_probs
    np.testing.assert_allclose(v - v.mean(), scores - scores.mean(), atol=1e-10)


def never_wins():
    law = np.array([[0.2, 0.2, 0.1], [0.2, 0.1, 0.2], [0.0, 0.0, 0.0]])
    return as_joint(random_problem(0, 3), law)


def two_groups():
    law = np.zeros((4, 4))
    law[:2, :2] = law[2:, 2:] = 0.125
    return as_joint(random_problem(0, 4), law)


@pytest.mark.parametrize("make", [cyclic, never_wins, two_groups])
def test_there_is_no_product_where_no_scores_explain_the_pairs_or_some_are_open(make):
    problem = make()
    assert problem.independent is None
    for name in set(CLOSED_FORMS) - OF_MARGINS:
        assert ds.closed_form(problem, ds.objective(name)) is None
    for function in (ds.fisher_information, ds.dpo_optimum, solve_alternating):
        with pytest.raises(ValueError, match="scores"):
            function(problem)


def test_one_open_prompt_leaves_the_problem_open():
    rng = np.random.default_rng(0)
    law = np.stack([consistent_law(rng.standard_normal(3), rng), cyclic().pairs])
    assert as_joint(random_problem(1, 3, prompts=2), law).independent is None


def test_what_the_reference_excludes_needs_no_score():
    law = np.array([[0.1, 0.4, 0.0], [0.2, 0.3, 0.0], [0.0, 0.0, 0.0]])
    problem = ds.Problem.from_pairs([0.5, 0.5, 0.0], [0.2, 0.8, 0.0], law)
    np.testing.assert_allclose(ds.dpo_optimum(problem).probs, [2 / 3, 1 / 3, 0.0])
    solution = ds.solve(problem, ds.objective("dpo"))
    np.testing.assert_allclose(solution.policy.probs, [2 / 3, 1 / 3, 0.0], atol=1e-12)


# --- closed forms -----------------------------------------------------------------------------------------

AT = {
    "cdpo": {"label_smoothing": 0.0},
    "robust_dpo": {"label_smoothing": 0.0},
    "dpop": {"lam": 0.0},
    "epsilon_dpo": {"epsilon": 0.0},
    "beta_dpo": {"alpha": 0.0, "rho": 0.0},
    "tdpo2": {"alpha": 0.0},
    "ld_dpo": {"ld_alpha": 1.0},
    "cpo": {"lam": 0.0},
    "simpo": {"gamma": 0.0},
    "rmipo": {"gamma_max": 0.0, "gamma_min": 0.0},
    "alpha_dpo": {"gamma": 0.0, "alpha": 0.0},
    "alphapo": {"gamma": 0.0},
    "orpo": {"lam": 0.0},
    "chi_po": {"r_max": 50.0},
    "h_dpo": {"eta": 1.5},
    "f_dpo": {"divergence": "js"},
    "mi_dpo": {"prior": "uniform"},
    "r_dpo": {"alpha": 0.3},
}
NO_FORM = {"ipo"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_solver_ends_at_the_closed_form_of_joint_pairs_or_there_is_none(name):
    problem, _ = example_pairs(4, 7, ring(7), ds.Sequences(2, 2))
    if name == "sppo":
        rare = problem.pairs + np.outer(problem.reference.probs, np.full(7, 1 / 7)) * 20
        problem = as_joint(problem, rare / rare.sum())
    loss = ds.objective(name, **AT.get(name, {}))
    form = ds.closed_form(problem, loss)
    assert (form is None) == (name in NO_FORM)
    if form is not None:
        solution = ds.solve(problem, loss)
        assert solution.status == "converged", solution.sentence
        np.testing.assert_allclose(solution.policy.log_probs, form.log_probs, atol=1e-8)


def test_ipo_depends_on_how_often_pairs_are_compared():
    """G = 0 is L s = t (w − l), with L the Laplacian of the frequencies: two laws of the same preferences differ."""
    scores = np.array([0.0, 1.0, 2.5])
    ends = []
    for seed in (0, 1):
        problem = as_joint(random_problem(1, 3), consistent_law(scores, np.random.default_rng(seed)))
        often = problem.pairs + problem.pairs.T
        laplacian = np.diag(often.sum(1)) - often
        s = np.linalg.pinv(laplacian) @ (problem.chosen.probs - problem.rejected.probs) / (2 * 0.5)
        want = ds.Policy.from_logits(problem.reference.log_probs + s)
        ends.append(ds.solve(problem, ds.objective("ipo", tau=0.5)).policy)
        np.testing.assert_allclose(ends[-1].probs, want.probs, atol=1e-10)
    assert ds.tv(*ends) > 1e-3


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_dpo_ends_at_the_scores_whatever_is_compared_how_often(beta):
    for compared in (None, ring(K)):
        problem, scores = example_pairs(9, K, compared)
        want = ds.Policy.from_logits(problem.reference.log_probs + scores / beta)
        np.testing.assert_allclose(ds.dpo_optimum(problem, beta).probs, want.probs, rtol=1e-12)
        np.testing.assert_allclose(
            ds.solve(problem, ds.objective("dpo", beta=beta)).policy.probs, want.probs, rtol=1e-9
        )


# --- information ------------------------------------------------------------------------------------------


def test_fisher_information_is_the_curvature_of_the_expected_loss():
    problem, scores = example_pairs(11, K, ring(K))
    v = torch.tensor(scores)
    law = torch.tensor(np.array(problem.pairs))

    def expected_loss(s):
        return -(law * torch.nn.functional.logsigmoid(s[:, None] - s)).sum()

    curvature = torch.autograd.functional.hessian(expected_loss, v)
    np.testing.assert_allclose(ds.fisher_information(problem), curvature, atol=1e-14)


def test_the_predicted_error_is_that_of_the_pseudo_inverse():
    problem, scores = example_pairs(12, K, ring(K))
    covariance = np.linalg.pinv(ds.fisher_information(problem)) / 1000
    pi = np.exp(scores + problem.reference.log_probs)
    pi /= pi.sum()
    centre = np.eye(K) - pi
    want = np.sqrt(np.diag(centre @ covariance @ centre.T))
    np.testing.assert_allclose(ds.predicted_error(problem, 1000).std_log_prob, want, rtol=1e-9)


def test_bayes_accuracy_is_the_share_of_the_better_one():
    problem = cyclic()
    law = problem.pairs
    pairs = itertools.combinations(range(3), 2)
    want = sum(max(law[i, j], law[j, i]) for i, j in pairs) + 0.5 * np.trace(law)
    assert ds.bayes_accuracy(problem) == pytest.approx(want, abs=1e-15)
    # a ranking is right about two of the three sides of a circle
    ranking = max(
        sum(law[i, j] * (order.index(i) < order.index(j)) for i in range(3) for j in range(3))
        for order in itertools.permutations(range(3))
    )
    assert ranking + 0.5 * np.trace(law) < want - 0.1


# --- outer loops ------------------------------------------------------------------------------------------


def test_rounds_on_joint_pairs_add_the_scores_each_time():
    problem, scores = example_pairs(13)
    solutions = solve_rounds(problem, rounds=5)
    steps = solutions[0].policy.log_probs - problem.reference.log_probs
    np.testing.assert_allclose(steps - steps.mean(), scores - scores.mean(), atol=1e-9)
    assert solutions[-1].survivors.tolist() == [score == scores.max() for score in scores]


def test_alternation_sees_preferences_alone():
    product = random_problem(15, 6, prompts=3)
    joint = as_joint(product, np.stack([consistent_law(v, np.random.default_rng(1)) for v in log_odds(product)]))
    worlds = (product, joint, replace(joint, pairs=None))
    plain, found, by_margins = (solve_alternating(world, 3.0).policy for world in worlds)
    np.testing.assert_allclose(found.probs, plain.probs, atol=1e-9)
    assert ds.tv(by_margins, plain).max() > 0.1


def log_odds(problem):
    return problem.chosen.log_probs - problem.rejected.log_probs


# --- what is refused --------------------------------------------------------------------------------------

GOOD = [[0.25, 0.4], [0.1, 0.25]]


@pytest.mark.parametrize(
    ("pairs", "error", "said"),
    [
        ([[0.5, 0.5]], ValueError, "the shape of pairs"),
        ([[0.2, 0.2, 0.1], [0.1, 0.1, 0.1], [0.1, 0.05, 0.05]], ValueError, "one shape"),
        ([GOOD, GOOD], ValueError, "one shape"),
        ([[0.5, 0.6], [-0.1, 0.0]], ValueError, r"pairs\[1, 0\] must be a probability; got -0.1"),
        ([[0.5, np.nan], [0.1, 0.4]], ValueError, r"pairs\[0, 1\] must be a finite number"),
        ([[0.5, 0.2], [0.1, 0.1]], ValueError, "the sum of pairs"),
        ("pairs", TypeError, "an array of real numbers"),
    ],
)
def test_what_is_no_law_of_pairs_is_refused(pairs, error, said):
    with pytest.raises(error, match=said):
        ds.Problem.from_pairs([0.5, 0.5], [0.8, 0.2], pairs)


def test_margins_that_disagree_are_refused():
    problem = ds.Problem.from_pairs([0.5, 0.5], [0.8, 0.2], GOOD)
    for name in ("chosen", "rejected"):
        with pytest.raises(ValueError, match=f"{name} of a problem with pairs must be their margin"):
            replace(problem, **{name: problem.target})


def test_a_table_of_another_size_is_refused():
    problem = ds.Problem.from_pairs([0.5, 0.5], [0.8, 0.2], GOOD)
    with pytest.raises(ValueError, match=r"the shape of pairs must be \[2, 2\]; got \(1, 2, 2\)"):
        replace(problem, pairs=np.array([GOOD]))


def test_pairs_must_leave_out_what_the_reference_excludes():
    with pytest.raises(ValueError, match="zero wherever the reference is zero"):
        ds.Problem.from_pairs([1.0, 0.0], [1.0, 0.0], GOOD)


def test_pairs_cannot_be_written_and_do_not_follow_their_input():
    given = np.array(GOOD)
    problem = ds.Problem.from_pairs([0.5, 0.5], [0.8, 0.2], given)
    given[0, 0] = 9.0
    assert problem.pairs[0, 0] == 0.25
    assert not problem.pairs.flags.writeable
