"""What one objective has to do with another, and the laws of what they share: stops, statistics, masks, projections."""

import itertools
import math

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from oracles import losses as oracle
from oracles import token_losses
from oracles.losses import Pair
from samples import (
    EPS,
    LATTICE,
    LOG_PROBS,
    NEGLIGIBLE,
    TOKEN_PAIRS,
    T,
    as_responses,
    as_table,
    assert_same,
    every_option,
    grid_of,
    make_pairs,
    one_pair,
    random_numbers,
    random_pair,
    responses,
    table,
    value_and_gradients,
    values_and_gradients,
)

from didsim.objectives import (
    OBJECTIVES,
    PRIORS,
    NextTokens,
    Pairs,
    Responses,
    Tokens,
    objective,
    projected_gradient,
)
from didsim.objectives._math import stop_gradient, stop_gradient_if

NAMES = sorted(OBJECTIVES)
TOKEN_NAMES = sorted(token_losses.LOSSES)
MODEST = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)

BETAS = (0.1, 1.0, 2.5)

DIFFERENCES_OF_1E4 = 16 * 1e4 * EPS[torch.float64]
"""The lattice holds log-probabilities of −1e4, whose differences two formulas may take in another order."""

ORDINARY = tuple(map(random_pair, range(8)))


def of_lattice(loss, points=LATTICE):
    """Values, and gradients by all that moves, as one tensor."""
    values, gradients = value_and_gradients(loss, make_pairs(points))
    return torch.tensor([values, *gradients.values()], dtype=torch.float64)


def of_tokens(loss, samples=TOKEN_PAIRS):
    """Values, and gradients by all logits, for responses of several tokens."""
    (chosen, by_chosen), (rejected, by_rejected) = (as_responses(side) for side in zip(*samples, strict=True))
    values = loss(Pairs(chosen, rejected))
    gradients = torch.autograd.grad(values.sum(), [by_chosen["logits"], by_rejected["logits"]])
    return torch.cat([values, *(gradient.flatten() for gradient in gradients)]).detach()


def assert_identical(first, second, points=LATTICE):
    """Two losses have the same values and the same gradients."""
    got, want = (of_lattice(loss, points) for loss in (first, second))
    torch.testing.assert_close(got, want, rtol=NEGLIGIBLE, atol=DIFFERENCES_OF_1E4, equal_nan=False)
    if points is LATTICE:
        got, want = (of_lattice(loss, ORDINARY) for loss in (first, second))
        assert_same(got, want, units=64)


def assert_identical_on_tokens(first, second):
    got, want = (of_tokens(loss) for loss in (first, second))
    torch.testing.assert_close(got, want, rtol=NEGLIGIBLE, atol=DIFFERENCES_OF_1E4)
    got, want = (of_tokens(loss, TOKEN_PAIRS[:5]) for loss in (first, second))
    assert_same(got, want, units=64)


class TestOneObjectiveIsAnother:
    """The free identities, in value and gradient."""

    @pytest.mark.parametrize("beta", BETAS)
    @pytest.mark.parametrize("gamma", [0.0, 0.3, 1.6])
    def test_alpha_dpo_that_does_not_adapt_is_simpo(self, beta, gamma):
        first = objective("alpha_dpo", beta=beta, gamma=gamma, alpha=0.0)
        assert_identical(first, objective("simpo", beta=beta, gamma=gamma))

    @pytest.mark.parametrize("options", [{"normalise": False}, {"margin": "tdpo"}, {"stop_gradient": False}])
    def test_alpha_dpo_that_does_not_adapt_is_simpo_under_every_option(self, options):
        first = objective("alpha_dpo", alpha=0.0, gamma=0.5, **options)
        assert_identical(first, objective("simpo", beta=2.5, gamma=0.5), ORDINARY)

    def test_alpha_dpo_under_a_uniform_reference_is_simpo(self):
        first = objective("alpha_dpo", reference_form="uniform", beta=2.5, gamma=0.5)
        assert_identical(first, objective("simpo", beta=2.5, gamma=0.5))

    @pytest.mark.parametrize("schedule", ["exponential", "linear", "cosine"])
    @pytest.mark.parametrize("gamma", [0.3, 1.6])
    def test_rmipo_whose_bounds_agree_is_simpo(self, schedule, gamma):
        first = objective("rmipo", beta=2.5, gamma_min=gamma, gamma_max=gamma, schedule=schedule)
        assert_identical(first, objective("simpo", beta=2.5, gamma=gamma))

    def test_rmipo_without_a_schedule_is_simpo_at_the_larger_margin(self):
        first = objective("rmipo", beta=2.5, gamma_max=1.2, schedule="none")
        assert_identical(first, objective("simpo", beta=2.5, gamma=1.2))

    @pytest.mark.parametrize("stopped", [False, True])
    def test_rmipo_of_one_prompt_is_simpo_at_the_larger_margin(self, stopped):
        # with one prompt π(y) = π(y|x), so that no pair has any mutual information
        values = []
        for loss in (objective("rmipo", stop_gradient=stopped), objective("simpo", beta=2.0, gamma=1.6)):
            log_pi, log_ref, length = table()
            leaf = log_pi.requires_grad_()
            sides = ((leaf[:, None], log_ref[:, None], length[:, None]), (leaf[None], log_ref[None], length[None]))
            pairs = Pairs(*(responses(*side, log_marginal=side[0]) for side in sides))
            loss_of_pairs = loss(pairs)
            (gradient,) = torch.autograd.grad(loss_of_pairs.sum(), leaf)
            values.append(torch.cat([loss_of_pairs, gradient[None]]).detach())
        assert_same(*values, units=16)

    @pytest.mark.parametrize("beta", BETAS)
    def test_alphapo_of_shape_zero_is_simpo(self, beta):
        first = objective("alphapo", beta=beta, gamma=0.3, alpha=0.0)
        assert_identical(first, objective("simpo", beta=beta, gamma=0.3))

    @pytest.mark.parametrize("alpha", [1e-6, -1e-6, 1e-9, 1e-12])
    def test_alphapo_tends_to_simpo(self, alpha):
        # (1 − e^(−αa))/α = a − αa²/2 + …
        numbers = {"beta": 2.5, "gamma": 0.3}
        got = of_lattice(objective("alphapo", alpha=alpha, **numbers), ORDINARY)
        want = of_lattice(objective("simpo", **numbers), ORDINARY)
        torch.testing.assert_close(got, want, rtol=0.0, atol=100.0 * abs(alpha) + NEGLIGIBLE)

    @pytest.mark.parametrize("beta", BETAS)
    def test_h_dpo_with_eta_one_is_dpo(self, beta):
        assert_identical(objective("h_dpo", beta=beta, eta=1.0), objective("dpo", beta=beta))

    @pytest.mark.parametrize("beta", BETAS)
    def test_epsilon_dpo_without_a_step_is_dpo(self, beta):
        first, second = objective("epsilon_dpo", beta=beta, epsilon=0.0), objective("dpo", beta=beta)
        assert_identical(first, second)
        assert_identical_on_tokens(first, second)

    @pytest.mark.parametrize("beta", BETAS)
    @pytest.mark.parametrize("options", [{}, {"margin": "raw"}, {"level": "batch"}])
    def test_beta_dpo_that_does_not_adapt_is_dpo(self, beta, options):
        assert_identical(objective("beta_dpo", beta=beta, alpha=0.0, **options), objective("dpo", beta=beta))

    def test_beta_dpo_of_equal_margins_is_dpo(self):
        points = [Pair(-1.0, -1.5, -1.25, -1.0), Pair(-2.0, -2.5, -1.25, -1.0), Pair(-3.0, -3.5, -2.25, -2.0)]
        assert_identical(objective("beta_dpo", beta=0.7, alpha=0.8), objective("dpo", beta=0.7), points)

    @pytest.mark.parametrize("beta", BETAS)
    def test_dpop_without_a_penalty_is_dpo(self, beta):
        assert_identical(objective("dpop", beta=beta, lam=0.0), objective("dpo", beta=beta))

    def test_dpop_of_a_chosen_response_above_its_reference_is_dpo(self):
        points = [y for y in LATTICE if y.lw > y.rw]
        assert len(points) >= 5
        assert_identical(objective("dpop", beta=0.3, lam=50.0), objective("dpo", beta=0.3), points)

    @pytest.mark.parametrize("beta", BETAS)
    def test_r_dpo_without_a_penalty_is_dpo(self, beta):
        assert_identical(objective("r_dpo", beta=beta, alpha=0.0), objective("dpo", beta=beta))

    def test_r_dpo_of_equal_lengths_is_dpo(self):
        points = [y for y in LATTICE if y.nw == y.nl]
        assert_identical(objective("r_dpo", beta=0.5, alpha=3.0), objective("dpo", beta=0.5), points)

    def test_r_dpo_asks_for_a_larger_margin_where_the_rejected_response_is_the_longer(self):
        # the reward is β h + α |y|: at π = π_ref the longer response has the larger one, and is to come down
        longer_chosen, longer_rejected = one_pair(-1.0, -1.0, -1.0, -1.0, 5.0, 2.0), one_pair(-1, -1, -1, -1, 2.0, 5.0)
        loss = objective("r_dpo", beta=0.5, alpha=0.1)
        assert loss(longer_chosen).item() == pytest.approx(math.log1p(math.exp(-0.3)), rel=1e-15)
        assert loss(longer_rejected).item() == pytest.approx(math.log1p(math.exp(0.3)), rel=1e-15)

    @staticmethod
    def unweighted(loss):
        """The loss of pairs whose tokens have no weights and no masks of their own."""

        def of_pairs(pairs):
            bare = (
                Responses(y.log_pi, y.log_ref, y.length, Tokens(t.log_pi, t.mask, t.log_ref, t.vocabulary))
                for y, t in ((pairs.chosen, pairs.chosen.tokens), (pairs.rejected, pairs.rejected.tokens))
            )
            return loss(Pairs(*bare))

        return of_pairs

    @pytest.mark.parametrize("beta", BETAS)
    def test_tis_dpo_of_equal_weights_and_no_divergence_is_dpo(self, beta):
        first, second = objective("tis_dpo", beta=beta, alpha=0.0), objective("dpo", beta=beta)
        assert_identical_on_tokens(self.unweighted(first), second)

    @pytest.mark.parametrize("beta", BETAS)
    @pytest.mark.parametrize("masks", ["given", "learned"])
    def test_sparse_po_of_masks_that_are_one_at_no_cost_is_tdpo1(self, beta, masks):
        first, second = objective("sparse_po", beta=beta, lam=0.0, masks=masks), objective("tdpo1", beta=beta)
        assert_identical_on_tokens(self.unweighted(first), second)

    def test_weights_and_masks_that_are_not_there_are_one(self):
        chosen, rejected = (as_responses(side)[0] for side in zip(*TOKEN_PAIRS, strict=True))
        given = Pairs(
            *(
                Responses(y.log_pi, y.log_ref, y.length, Tokens(t.log_pi, t.mask, t.log_ref, t.vocabulary, *[ones] * 3))
                for y, t, ones in ((y, y.tokens, torch.ones_like(y.tokens.log_pi)) for y in (chosen, rejected))
            )
        )
        for name in ("tis_dpo", "sparse_po"):
            loss = objective(name)
            assert_same(self.unweighted(loss)(Pairs(chosen, rejected)), loss(given))
        size = objective("sparse_po", lam=0.01)(given) - objective("sparse_po", lam=0.0)(given)
        tokens = torch.tensor([2.0 * (len(w.taken) + len(l.taken)) for w, l in TOKEN_PAIRS], dtype=torch.float64)  # noqa: E741
        torch.testing.assert_close(size, 0.01 * tokens, rtol=0.0, atol=DIFFERENCES_OF_1E4)

    @pytest.mark.parametrize("beta", BETAS)
    def test_tdpo2_without_divergences_is_dpo(self, beta):
        first, second = objective("tdpo2", beta=beta, alpha=0.0), objective("dpo", beta=beta)
        assert_identical(first, second)
        assert_identical_on_tokens(first, second)

    def test_tdpo2_in_full_is_tdpo1_in_value_but_not_in_gradient(self):
        first, second = (of_tokens(objective(*given, beta=0.5)) for given in (("tdpo1",), ("tdpo2",)))
        full = of_tokens(objective("tdpo2", beta=0.5, alpha=1.0))
        count = len(TOKEN_PAIRS)
        torch.testing.assert_close(full[:count], first[:count], rtol=NEGLIGIBLE, atol=DIFFERENCES_OF_1E4)
        assert (full[count:] - first[count:]).abs().max() > 0.01
        assert (second[:count] - first[:count]).abs().max() > 0.01

    @pytest.mark.parametrize("beta", BETAS)
    def test_cdpo_and_robust_dpo_without_smoothing_are_dpo(self, beta):
        for name in ("cdpo", "robust_dpo"):
            assert_identical(objective(name, beta=beta, label_smoothing=0.0), objective("dpo", beta=beta))

    @pytest.mark.parametrize("smoothing", [0.05, 0.2, 0.4])
    def test_robust_dpo_over_flipped_labels_is_dpo_on_average(self, smoothing):
        # (1−ε) ℓ(w, l) + ε ℓ(l, w) is the DPO loss of the true label, which is what "robust" means
        log_pi, log_ref, length = table()
        robust = objective("robust_dpo", label_smoothing=smoothing)(as_table(log_pi, log_ref, length))
        plain = objective("dpo")(as_table(log_pi, log_ref, length))
        assert_same((1.0 - smoothing) * robust + smoothing * robust.mT, plain, units=16)

    def test_orpo_without_odds_is_the_nll_per_token(self):
        values, chosen, rejected = values_and_gradients(objective("orpo", lam=0.0), make_pairs(LATTICE))
        assert values == [-y.lw / y.nw for y in LATTICE]
        assert chosen == [-1.0 / y.nw for y in LATTICE]
        assert rejected == [0.0] * len(LATTICE)

    @pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
    def test_the_calibration_of_cal_dpo_is_sppo(self, beta):
        def calibration(pairs):
            return objective("cal_dpo", beta=beta)(pairs) - objective("dpo", beta=1.0)(pairs)

        got, want = (of_lattice(loss, ORDINARY) for loss in (calibration, objective("sppo", beta=beta)))
        torch.testing.assert_close(got, want, rtol=NEGLIGIBLE, atol=NEGLIGIBLE)

    @pytest.mark.parametrize("beta", BETAS)
    @pytest.mark.parametrize("lam", [1.0, 0.25, 3.0])
    def test_kto_without_divergence_is_proportional_to_apo_zero(self, beta, lam):
        points = [Pair(*list(vars(y).values())[:-1], 0.0) for y in LATTICE]
        kto, apo_zero = objective("kto", beta=beta, lam_w=lam, lam_l=lam), objective("apo_zero", beta=beta)
        got, want = of_lattice(kto, points), of_lattice(apo_zero, points)
        torch.testing.assert_close(got, lam * want, rtol=NEGLIGIBLE, atol=DIFFERENCES_OF_1E4)

    @pytest.mark.parametrize("beta", BETAS)
    def test_dpo_at_the_reference_is_log_2_with_gradient_half_of_beta(self, beta):
        points = [Pair(x, y, x, y) for x in LOG_PROBS for y in LOG_PROBS]
        values, chosen, rejected = values_and_gradients(objective("dpo", beta=beta), make_pairs(points))
        assert values == pytest.approx([math.log(2.0)] * len(points), rel=EPS[torch.float64])
        assert chosen == [-beta / 2] * len(points)
        assert rejected == [beta / 2] * len(points)

    @pytest.mark.parametrize("beta", BETAS)
    def test_simpo_of_one_token_without_margin_is_log_pi(self, beta):
        points = [Pair(*list(vars(y).values())[:4]) for y in LATTICE]
        assert_identical(objective("simpo", beta=beta, gamma=0.0), objective("log_pi", beta=beta), points)

    def test_repo_is_the_limit_of_simpo_whose_reward_is_steep(self):
        # S(β(m − γ))/β → max(0, γ − m), and is nowhere more than log 2/β above it
        for beta in (1e3, 1e6):
            pairs = make_pairs(ORDINARY)
            steep = objective("simpo", beta=beta, gamma=0.5 * beta)(pairs) / beta
            flat = objective("repo", gamma=0.5)(pairs)
            assert (steep - flat).max() <= math.log(2.0) / beta + NEGLIGIBLE
            assert (steep - flat).min() >= -NEGLIGIBLE

    def test_entropy_probe_is_log_pi_at_scale_one(self):
        assert_identical(objective("entropy_probe"), objective("log_pi", beta=1.0))

    @pytest.mark.parametrize("beta", BETAS)
    def test_dpo_per_token_of_one_token_is_dpo(self, beta):
        points = [Pair(*list(vars(y).values())[:4]) for y in LATTICE]
        assert_identical(objective("dpo_norm", beta=beta), objective("dpo", beta=beta), points)
        first, second = (objective("ipo", tau=beta, aggregation=how) for how in ("mean", "sum"))
        assert_identical(first, second, points)

    @pytest.mark.parametrize("beta", BETAS)
    def test_f_dpo_of_the_reverse_kl_is_dpo(self, beta):
        assert_identical(objective("f_dpo", beta=beta, divergence="reverse_kl"), objective("dpo", beta=beta))
        order_one = objective("f_dpo", beta=beta, divergence="alpha", alpha=1.0)
        assert_identical(order_one, objective("dpo", beta=beta))

    def test_f_dpo_of_order_zero_is_that_of_the_forward_kl(self):
        first = objective("f_dpo", beta=0.7, divergence="alpha", alpha=0.0)
        assert_identical(first, objective("f_dpo", beta=0.7, divergence="forward_kl"), ORDINARY)

    @pytest.mark.parametrize("beta", BETAS)
    def test_bco_and_nca_are_pieces_of_one_another(self, beta):
        # NCA − ½ BCO = ½ [S(c) + S(−c)], the smoothed label of a chosen response
        pairs = make_pairs(ORDINARY)
        nca, bco = (objective(name, beta=beta)(pairs) for name in ("nca", "bco"))
        c = beta * pairs.chosen.log_ratio
        fair = -torch.nn.functional.logsigmoid(-c) - torch.nn.functional.logsigmoid(c)
        assert_same(nca - 0.5 * bco, 0.5 * fair, units=16)

    @pytest.mark.parametrize("beta", BETAS)
    def test_ld_dpo_counts_all_tokens_or_the_shared_ones_only(self, beta):
        assert_identical_on_tokens(objective("ld_dpo", beta=beta, ld_alpha=1.0), objective("dpo", beta=beta))
        shared = [(shortened(w, len(l.taken)), shortened(l, len(w.taken))) for w, l in TOKEN_PAIRS[:5]]  # noqa: E741
        values = len(shared)
        first = of_tokens(objective("ld_dpo", beta=beta, ld_alpha=0.0), TOKEN_PAIRS[:5])[:values]
        assert_same(first, of_tokens(objective("dpo", beta=beta), shared)[:values], units=16)

    @pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
    def test_aot_of_one_pair_is_dpo(self, name):
        for y in LATTICE:
            assert_identical(objective(name, beta=0.5), objective("dpo", beta=0.5), [y])

    def test_aot_unpaired_is_least_of_all_ways_to_pair(self):
        # S is convex: of all pairings of chosen with rejected responses the sorted one has the least mean loss
        pairs = make_pairs(ORDINARY[:5])
        sorted_ones = objective("aot_unpaired")(pairs).mean().item()
        chosen, rejected = pairs.chosen.log_ratio, pairs.rejected.log_ratio
        means = [
            torch.nn.functional.logsigmoid(chosen - rejected[list(order)]).neg().mean().item()
            for order in itertools.permutations(range(5))
        ]
        assert sorted_ones == pytest.approx(min(means), rel=1e-14)
        assert sorted_ones < max(means)

    def test_dpo_pg_without_rejected_gradients_descends_the_nll(self):
        values, chosen, rejected = values_and_gradients(objective("dpo_pg"), make_pairs(LATTICE))
        assert values == [-y.lw for y in LATTICE]
        assert (chosen, rejected) == ([-1.0] * len(LATTICE), [0.0] * len(LATTICE))


def shortened(y, length):
    """The first tokens of a response."""
    keep = min(length, len(y.taken))
    return token_losses.Tokens(*(part[:keep] for part in vars(y).values()))


def free_categorical(logits, ref_logits, runs=None):
    """Pairs of all K responses of one token, drawn from one distribution."""
    log_pi, log_ref = (torch.log_softmax(scores, dim=-1) for scores in (logits, ref_logits))
    vocabulary = NextTokens(log_pi[None, None, None], log_ref[None, None, None])
    sides = []
    for shape in ((-1, 1), (1, -1)):
        parts = [part.reshape(shape) for part in (log_pi, log_ref)]
        mask = torch.ones(*parts[0].shape, 1, dtype=torch.bool)
        tokens = Tokens(parts[0][..., None], mask, parts[1][..., None], vocabulary)
        sides.append(Responses(*parts, torch.ones_like(parts[0]), tokens))
    return Pairs(*sides)


class TestFreeCategorical:
    """One token out of K: both responses of a pair come from the same distribution."""

    LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    REF_LOGITS = torch.tensor([0.0, 0.75, -0.5, 1.5], dtype=torch.float64)
    SELECTED = torch.tensor([[0.0, 1.0, 0.5, 2.0], [0.25, 0.0, 1.0, 0.0], [0.0, 3.0, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]])

    def value_and_gradient(self, loss):
        logits = self.LOGITS.clone().requires_grad_()
        values = loss(free_categorical(logits, self.REF_LOGITS))
        (gradient,) = torch.autograd.grad((self.SELECTED * values).sum(), logits)
        return values.detach(), gradient

    @pytest.mark.parametrize("beta", BETAS)
    def test_tdpo1_is_dpo(self, beta):
        for got, want in zip(
            *(self.value_and_gradient(objective(name, beta=beta)) for name in ("tdpo1", "dpo")), strict=True
        ):
            assert_same(got, want, units=16)

    @pytest.mark.parametrize("beta", BETAS)
    @pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
    def test_tdpo2_is_dpo_in_value_but_not_in_gradient(self, beta, alpha):
        got, want = (
            self.value_and_gradient(loss)
            for loss in (objective("tdpo2", beta=beta, alpha=alpha), objective("dpo", beta=beta))
        )
        assert_same(got[0], want[0], units=16)
        # what is missing is the path through K_w: β S′(βD) α ∂K/∂θ = −β α σ(−βD) (π − π_ref) for each pair
        difference = got[1] - want[1]
        log_ratio = torch.log_softmax(self.LOGITS, 0) - torch.log_softmax(self.REF_LOGITS, 0)
        slopes = torch.sigmoid(-beta * (log_ratio[:, None] - log_ratio[None, :]))
        kl_slope = torch.softmax(self.LOGITS, 0) - torch.softmax(self.REF_LOGITS, 0)
        assert_same(difference, beta * alpha * (self.SELECTED * slopes).sum() * kl_slope, units=64)
        assert difference.abs().max() > 1e-3

    @pytest.mark.parametrize("epsilon", [0.005, 0.01, 0.02, 0.5])
    def test_the_sign_of_epsilon_dpo_is_that_of_the_log_ratio_margin(self, epsilon):
        # log Z is shared, so that logits (1+ε)θ − εθ_ref move the margin by εD
        pairs = free_categorical(self.LOGITS, self.REF_LOGITS)
        margin = pairs.chosen.log_ratio - pairs.rejected.log_ratio
        adapted = 0.3 / (1.0 + epsilon * torch.sign(margin))
        want = -torch.nn.functional.logsigmoid(adapted * margin)
        assert_same(objective("epsilon_dpo", beta=0.3, epsilon=epsilon)(pairs), want)
        assert set(torch.sign(margin).flatten().tolist()) == {-1.0, 0.0, 1.0}

    def test_at_the_reference_epsilon_dpo_is_dpo(self):
        pairs = free_categorical(self.LOGITS, self.LOGITS)
        assert torch.equal(objective("epsilon_dpo", beta=0.3, epsilon=0.5)(pairs), objective("dpo", beta=0.3)(pairs))

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_at_the_reference_no_loss_and_no_gradient_is_nan(self, name, options):
        log_pi, _, length = table()
        leaf = log_pi.clone().requires_grad_()
        sides = ((leaf[:, None], log_pi[:, None], length[:, None]), (leaf[None], log_pi[None], length[None]))
        values = objective(name, **options)(Pairs(*(responses(*side) for side in sides)))
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()


class TestShifts:
    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_a_shift_of_all_logits_of_a_prompt_changes_nothing(self, name, options):
        # two prompts, each shifted by a constant of its own; test_objectives shifts one prompt and sums gradients
        loss = objective(name, **options)
        logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], dtype=torch.float64)
        log_ref = torch.log_softmax(torch.tensor([[0.1, 0.4, -1.0], [1.5, 0.0, -2.0]], dtype=torch.float64), dim=1)

        def of_logits(scores):
            log_pi = torch.log_softmax(scores, dim=1)
            marginal = torch.logsumexp(log_pi, dim=0, keepdim=True).expand(2, -1) - math.log(2.0)
            sides = ((slice(None), [0, 1, 2]), (slice(None), [1, 2, 0]))
            length = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).expand(2, -1)
            return loss(Pairs(*(responses(log_pi[s], log_ref[s], length[s], marginal[s]) for s in sides)))

        shifted = of_logits(logits + torch.tensor([[8.0], [-4.0]], dtype=torch.float64))
        assert_same(shifted, of_logits(logits), units=64)

    def test_a_shift_of_log_probabilities_is_no_such_symmetry(self):
        # ORPO, SLiC, CPO, SimPER and what calibrates see the log-probabilities themselves
        changed = set()
        for name in NAMES:
            loss = objective(name)
            values = [loss(make_pairs([Pair(-1.0 - c, -2.0 - c, -1.5, -1.25, 1.0, 1.0)])) for c in (0.0, 0.5)]
            if (values[0] - values[1]).abs().max() > 1e-6:
                changed.add(name)
        assert {"orpo", "slic", "cpo", "simper", "cal_dpo", "sppo", "kto", "bco", "nca", "dpo_pg"} <= changed
        assert changed.isdisjoint({"dpo", "cdpo", "ipo", "log_pi", "simpo", "r_dpo", "repo", "hinge"})


class TestPriors:
    """MI-DPO under each prior is the loss that it recovers, in value and gradient, where gradient flows through ζ."""

    @pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
    @pytest.mark.parametrize(
        ("prior", "given", "name", "hyperparameters"),
        [
            ("reference", {}, "dpo", {}),
            ("previous", {}, "dpo", {}),
            ("uniform", {}, "log_pi", {}),
            ("centropy", {"eta": 0.8}, "h_dpo", {"eta": 0.8}),
            ("simpo", {"gamma": 0.7}, "simpo", {"gamma": 0.7}),
            ("r_dpo", {"length_penalty": 0.05}, "r_dpo", {"alpha": 0.05}),
        ],
    )
    def test_of_responses(self, alpha, prior, given, name, hyperparameters):
        first = objective("mi_dpo", alpha=alpha, prior=prior, **given)
        assert_identical(first, objective(name, beta=alpha, **hyperparameters))

    @pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
    @pytest.mark.parametrize(
        ("prior", "given", "name", "hyperparameters"),
        [
            ("tdpo", {}, "tdpo1", {}),
            ("tis_dpo", {"kl_weight": 0.5}, "tis_dpo", {"alpha": 0.5}),
            ("sparse_po", {}, "sparse_po", {"lam": 0.0}),
            ("reference", {}, "dpo", {}),
        ],
    )
    def test_of_tokens(self, alpha, prior, given, name, hyperparameters):
        first = objective("mi_dpo", alpha=alpha, prior=prior, **given)
        assert_identical_on_tokens(first, objective(name, beta=alpha, **hyperparameters))

    def test_the_marginal_prior_rewards_pointwise_mutual_information(self):
        def direct(pairs):
            chosen, rejected = (y.log_pi - y.log_marginal for y in (pairs.chosen, pairs.rejected))
            return -torch.nn.functional.logsigmoid(0.7 * (chosen - rejected))

        assert_identical(objective("mi_dpo", alpha=0.7, prior="marginal"), direct)

    def test_a_learned_prior_that_is_the_reference_gives_dpo_and_is_itself_pushed_away(self):
        points = [Pair(*list(vars(y).values())[:8], y.rw, y.rl) for y in ORDINARY]
        learned, dpo = (
            value_and_gradients(loss, make_pairs(points))
            for loss in (objective("mi_dpo", alpha=0.7, prior="learned"), objective("dpo", beta=0.7))
        )
        assert learned[0] == pytest.approx(dpo[0], rel=1e-14)
        assert learned[1]["lw"] == pytest.approx(dpo[1]["lw"], rel=1e-14)
        assert learned[1]["zw"] == pytest.approx([-x for x in dpo[1]["lw"]], rel=1e-14)
        assert learned[1]["zl"] == pytest.approx([-x for x in dpo[1]["ll"]], rel=1e-14)

    @pytest.mark.parametrize("prior", sorted(PRIORS))
    def test_a_stopped_prior_leaves_the_value_and_takes_its_own_gradient_away(self, prior):
        flowing, stopped = (objective("mi_dpo", alpha=0.7, prior=prior, stop_gradient=flag) for flag in (False, True))
        count = len(ORDINARY)
        values = [of_lattice(loss, ORDINARY)[0] for loss in (flowing, stopped)]
        assert torch.equal(*values)
        # with ζ a constant, the gradient is that of α log π alone
        pairs = make_pairs(ORDINARY)
        _, gradients = value_and_gradients(stopped, pairs)
        want = [-0.7 * (1.0 - math.exp(-value)) for value in values[1].tolist()]
        assert gradients["lw"] == pytest.approx(want, rel=1e-12)
        assert gradients["ll"] == pytest.approx([-x for x in want], rel=1e-12)
        assert [gradients[key] for key in ("mw", "ml", "zw", "zl")] == [[0.0] * count] * 4


# what torch.func imports warns of its own
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
class TestStopGradient:
    X = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)

    def test_it_is_the_identity(self):
        for x in (self.X, torch.tensor([math.nan, math.inf, -math.inf, -0.0]), torch.empty(0)):
            torch.testing.assert_close(stop_gradient(x), x, rtol=0.0, atol=0.0, equal_nan=True)

    def test_training_sees_no_path_through_it(self):
        x = self.X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((stop_gradient(x) * x).sum(), x)
        assert torch.equal(gradient, self.X)
        (nothing,) = torch.autograd.grad(stop_gradient(x).sum(), x)
        assert nothing.tolist() == [0.0, 0.0, 0.0]

    def test_the_gradient_field_is_differentiated_through_it(self):
        # the field of sg[x]·x is x, whose derivative is 1; that of a loss x² would be 2, and of a detached one 0
        def loss(x):
            return (stop_gradient(x) * x).sum()

        field = torch.func.grad(loss)
        assert torch.equal(field(self.X), self.X)
        assert torch.equal(torch.func.jacfwd(field)(self.X), torch.eye(3, dtype=torch.float64))

    def test_a_detached_number_would_hide_that_derivative(self):
        field = torch.func.grad(lambda x: (x.detach() * x).sum())
        assert torch.equal(torch.func.jacfwd(field)(self.X), torch.zeros(3, 3, dtype=torch.float64))

    def test_it_does_not_share_memory_with_what_it_stops(self):
        x = self.X.clone()
        stop_gradient(x).mul_(0.0)
        assert torch.equal(x, self.X)

    def test_an_option_decides(self):
        x = self.X.clone().requires_grad_()
        gradients = [torch.autograd.grad(stop_gradient_if(flag, x).sum(), x)[0].tolist() for flag in (True, False)]
        assert gradients == [[0.0] * 3, [1.0] * 3]

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_the_jacobian_of_every_gradient_field_is_that_of_its_differences(self, name, options):
        loss = objective(name, **options)
        log_ref, length = torch.tensor(random_numbers(3, 3), dtype=torch.float64).abs().neg(), torch.tensor([1.0, 2, 3])

        def total(logits):
            log_pi = torch.log_softmax(logits, dim=0)
            kl = (log_pi.exp() * (log_pi - log_ref)).sum()
            chosen, rejected = (
                responses(log_pi[s], log_ref[s], length.double()[s], mean_kl=kl) for s in ([0, 1, 0], [1, 2, 2])
            )
            return loss(Pairs(chosen, rejected)).mean()

        field, point, step = torch.func.grad(total), torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64), 1e-5
        jacobian = torch.func.jacfwd(field)(point)
        steps = step * torch.eye(3, dtype=torch.float64)
        differences = torch.stack([(field(point + e) - field(point - e)) / (2.0 * step) for e in steps], dim=1)
        # the error of central differences is step² times a third derivative, which β = 10 and 1/(2τ) = 50 enlarge
        torch.testing.assert_close(jacobian, differences, rtol=1e-6, atol=1e-6)


def batch_of(values, weights=None, **others):
    """Pairs that carry nothing but their number and weights."""
    zeros = torch.zeros_like(values)
    return Pairs(Responses(zeros), Responses(zeros), weights, **others)


class TestStatistics:
    VALUES = torch.tensor([0.5, 3.0, -1.0, 2.25], dtype=torch.float64)
    OTHERS = torch.tensor([1.5, -0.25, 0.0, 4.0], dtype=torch.float64)
    COUNTS = torch.tensor([2, 1, 5, 3])

    @staticmethod
    def square(x, y):
        return (x - y) ** 2

    def transported(self, pairs, x, y, cost=None):
        """The weighted mean cost of the coupling."""
        return pairs.mean(pairs.quantile_coupling(x, y, cost or self.square)).item()

    def test_whole_weights_are_repeated_pairs(self):
        weighted = batch_of(self.VALUES, self.COUNTS.double())
        x, y = (values.repeat_interleave(self.COUNTS) for values in (self.VALUES, self.OTHERS))
        repeated = batch_of(x)
        assert_same(weighted.mean(self.VALUES), repeated.mean(x))
        assert_same(weighted.std(self.VALUES), repeated.std(x))
        assert_same(weighted.std(self.VALUES), torch.tensor(np.std(x.numpy())))
        got = self.transported(weighted, self.VALUES, self.OTHERS)
        assert got == pytest.approx(self.transported(repeated, x, y), rel=1e-14)

    def test_weights_count_by_their_shares_alone(self):
        heavy, light = (batch_of(self.VALUES, factor * self.COUNTS.double()) for factor in (1024.0, 1.0))
        assert heavy.mean(self.VALUES).item() == light.mean(self.VALUES).item()
        assert heavy.std(self.VALUES).item() == light.std(self.VALUES).item()
        couplings = [pairs.quantile_coupling(self.VALUES, self.OTHERS, self.square) for pairs in (heavy, light)]
        assert_same(*couplings)

    @pytest.mark.parametrize("weights", [None, torch.ones(4, dtype=torch.float64), torch.full((4,), 0.3).double()])
    def test_equal_weights_give_the_plain_sort(self, weights):
        coupled = batch_of(self.VALUES, weights).quantile_coupling(self.VALUES, self.OTHERS, self.square)
        x, order = self.VALUES.sort()
        want = torch.empty_like(x)
        want[order] = (x - self.OTHERS.sort().values) ** 2
        assert_same(coupled, want)

    def test_a_pair_of_weight_zero_is_a_deleted_pair(self):
        weights = torch.tensor([2.0, 0.0, 1.0, 0.5], dtype=torch.float64)
        for worst in (1e300, math.inf, math.nan):
            values = self.VALUES.clone()
            values[1] = worst
            kept = [0, 2, 3]
            with_it, without_it = batch_of(values, weights), batch_of(values[kept], weights[kept])
            assert with_it.mean(values).item() == without_it.mean(values[kept]).item()
            if math.isfinite(worst):
                assert with_it.std(values).item() == without_it.std(values[kept]).item()
                coupled = with_it.quantile_coupling(values, self.OTHERS, self.square)
                alone = without_it.quantile_coupling(values[kept], self.OTHERS[kept], self.square)
                assert_same(coupled[kept], alone)
                assert coupled[1].item() == 0.0

    @pytest.mark.parametrize("rows_per_run", [1, 2])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_several_runs_at_once_are_each_alone(self, rows_per_run, weighted):
        x, y, weights = (torch.tensor(random_numbers(seed, 6, 3, 2), dtype=torch.float64) for seed in range(3))
        weights = weights.abs() if weighted else None
        together = batch_of(x, weights, rows_per_run=rows_per_run)
        coupled = together.quantile_coupling(x, y, self.square)
        for start in range(0, 6, rows_per_run):
            rows = slice(start, start + rows_per_run)
            alone = batch_of(x[rows], None if weights is None else weights[rows])
            for statistic in ("mean", "std"):
                got = getattr(together, statistic)(x)
                assert got.shape == (6, 1, 1)
                assert_same(got[rows].squeeze(), getattr(alone, statistic)(x[rows]).expand(rows_per_run).squeeze())
            assert_same(coupled[rows], alone.quantile_coupling(x[rows], y[rows], self.square))

    def test_the_gradient_of_the_spread_of_equal_values_is_zero(self):
        values = torch.full((3,), 2.5, dtype=torch.float64, requires_grad=True)
        spread = batch_of(values.detach()).std(values)
        (gradient,) = torch.autograd.grad(spread, values)
        assert (spread.item(), gradient.tolist()) == (0.0, [0.0] * 3)

    @hypothesis.given(data=st.data())
    @MODEST
    def test_the_coupling_costs_what_the_quantile_functions_say(self, data):
        size = data.draw(st.integers(1, 6))
        numbers = st.lists(st.integers(-8, 8).map(float), min_size=size, max_size=size)
        x, y = (torch.tensor(data.draw(numbers), dtype=torch.float64) for _ in range(2))
        whole = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size).filter(any))
        pairs = batch_of(x, torch.tensor(whole, dtype=torch.float64))
        for power in (1, 2):
            # ∫ |F⁻¹(q) − G⁻¹(q)|^p dq, over the quantiles between all jumps of both
            total = sum(whole)
            levels = [(k + 0.5) / total for k in range(total)]
            first, second = (np.quantile(np.repeat(v.numpy(), whole), levels, method="inverted_cdf") for v in (x, y))
            want = float(np.mean(np.abs(first - second) ** power))
            got = self.transported(pairs, x, y, lambda a, b, power=power: (a - b).abs() ** power)
            assert got == pytest.approx(want, rel=1e-12, abs=1e-12)

    def test_the_coupling_of_weighted_sets_is_the_wasserstein_distance_of_scipy(self):
        from scipy.stats import wasserstein_distance

        weights = torch.tensor([0.3, 1.7, 0.25, 2.0], dtype=torch.float64)
        got = self.transported(batch_of(self.VALUES, weights), self.VALUES, self.OTHERS, lambda x, y: (x - y).abs())
        want = wasserstein_distance(self.VALUES.numpy(), self.OTHERS.numpy(), weights.numpy(), weights.numpy())
        assert got == pytest.approx(want, rel=1e-13)

    def test_ties_do_not_change_the_cost(self):
        x, y = torch.tensor([1.0, 1.0, 2.0]).double(), torch.tensor([3.0, 0.0, 0.0]).double()
        costs = [
            self.transported(batch_of(x), x[list(order)], y[list(other)])
            for order in itertools.permutations(range(3))
            for other in itertools.permutations(range(3))
        ]
        assert costs == pytest.approx([(1.0 + 1.0 + 1.0) / 3.0] * 36, rel=1e-14)

    def test_an_infinite_cost_falls_on_its_own_pair(self):
        x = torch.tensor([-math.inf, 0.0, 1.0], dtype=torch.float64)
        coupled = batch_of(x).quantile_coupling(x, torch.zeros(3).double(), lambda a, b: (a - b).abs())
        assert coupled.tolist() == [math.inf, 0.0, 1.0]

    @pytest.mark.parametrize("statistic", ["mean", "std"])
    def test_a_run_without_weight_is_an_error_and_not_a_number(self, statistic):
        weights = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
        pairs = batch_of(torch.zeros(2, 2), weights, rows_per_run=1)
        with pytest.raises(ValueError, match="weights must be positive for at least one pair"):
            getattr(pairs, statistic)(torch.ones(2, 2))


OF_TOKENS = [
    pytest.param(*point.values, id=point.id)
    for point in every_option("mi_dpo", *TOKEN_NAMES)
    if point.values[1].get("prior") not in ("marginal", "learned", "given")
]
"""What looks at log π, log π_ref and tokens."""


class TestMasks:
    """What stands behind the mask is as if it were not there."""

    @staticmethod
    def losses_and_gradients(loss, samples, **padding):
        (chosen, by_chosen), (rejected, by_rejected) = (
            as_responses(side, **padding) for side in zip(*samples, strict=True)
        )
        values = loss(Pairs(chosen, rejected))
        leaves = [by_chosen["logits"], by_rejected["logits"]]
        return values.detach(), torch.autograd.grad(values.sum(), leaves, materialize_grads=True)

    @pytest.mark.parametrize(("name", "options"), OF_TOKENS)
    def test_masking_the_end_of_a_response_is_to_delete_it(self, name, options):
        loss, cut = objective(name, **options), [(shortened(w, 2), shortened(l, 1)) for w, l in TOKEN_PAIRS]  # noqa: E741
        (long, _), (short, _) = (as_responses([pair[0] for pair in samples]) for samples in (TOKEN_PAIRS, cut))
        (other_long, _), (other_short, _) = (as_responses([p[1] for p in samples]) for samples in (TOKEN_PAIRS, cut))
        hidden = [self.hide(y, keep) for y, keep in ((long, 2), (other_long, 1))]
        torch.testing.assert_close(loss(Pairs(*hidden)), loss(Pairs(short, other_short)), rtol=0.0, atol=0.0)

    @staticmethod
    def hide(y, keep):
        tokens = y.tokens
        mask = tokens.mask & (torch.arange(T) < keep)
        shorter = Tokens(**{**vars(tokens), "mask": mask})
        total = shorter.total
        return Responses(total(tokens.log_pi), total(tokens.log_ref), mask.sum(-1), shorter)

    @pytest.mark.parametrize(("name", "options"), every_option(*TOKEN_NAMES))
    @pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_does_no_harm_behind_the_mask(self, name, options, padding):
        loss = objective(name, **options)
        values, gradients = self.losses_and_gradients(loss, TOKEN_PAIRS, padding=padding)
        want, wanted = self.losses_and_gradients(loss, TOKEN_PAIRS)
        assert torch.equal(values, want)
        for side in (0, 1):
            mask = torch.tensor([[t < len(pair[side].taken) for t in range(T)] for pair in TOKEN_PAIRS])
            assert torch.equal(gradients[side][mask], wanted[side][mask])

    def test_masked_positions_have_gradient_zero(self):
        for name in TOKEN_NAMES:
            _, gradients = self.losses_and_gradients(objective(name), TOKEN_PAIRS)
            for side in (0, 1):
                mask = torch.tensor([[t < len(pair[side].taken) for t in range(T)] for pair in TOKEN_PAIRS])
                assert gradients[side][~mask].count_nonzero() == 0

    def test_positions_are_numbered_within_the_response_even_if_it_is_padded_on_the_left(self):
        mask = torch.tensor([[False, False, True, True], [True, False, True, True]])
        tokens = Tokens(torch.zeros(2, 4), mask)
        assert tokens.position[mask].tolist() == [1, 2, 1, 2, 3]


class TestProjectedGradient:
    @staticmethod
    def exact(chosen, rejected):
        with mpmath.mp.workdps(1000):
            result = oracle.projected(*([mpmath.mpf(x) for x in side.tolist()] for side in (chosen, rejected)))
            return torch.tensor([float(x) for x in result], dtype=torch.float64)

    def check(self, chosen, rejected):
        got = projected_gradient(chosen, rejected)
        assert torch.isfinite(got).all()
        scale = max(chosen.abs().max().item(), 2.0**-1022)
        torch.testing.assert_close(got, self.exact(chosen, rejected), rtol=0.0, atol=NEGLIGIBLE * scale)
        # orthogonal to g_l, or opposite to it, but for the rounding of g_w
        largest = max(rejected.abs().max().item(), 2.0**-1022)
        assert ((got / scale) @ (rejected / largest)).item() <= NEGLIGIBLE * len(chosen)

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("size", [1, 2, 7, 50])
    def test_it_is_its_definition_for_random_gradients(self, seed, size):
        self.check(*torch.tensor(random_numbers(seed, 2, size), dtype=torch.float64))

    BASE = torch.tensor([0.5, -2.0, 3.0, 0.0], dtype=torch.float64)
    OTHER = torch.tensor([1.0, 0.25, -0.125, 4.0], dtype=torch.float64)

    @pytest.mark.parametrize("scale", [1e-200, 1e-308, 1.0, 1e200, 1e300])
    @pytest.mark.parametrize("other_scale", [1e-200, 1.0, 1e200])
    def test_it_is_its_definition_whatever_the_scale_of_either_gradient(self, scale, other_scale):
        for sign in (-1.0, 1.0):
            self.check(other_scale * self.BASE, sign * scale * self.OTHER)
            self.check(other_scale * self.BASE, sign * scale * self.BASE)

    def test_without_a_gradient_of_rejected_responses_nothing_is_projected_out(self):
        assert torch.equal(projected_gradient(self.BASE, torch.zeros(4).double()), self.BASE)

    def test_without_a_gradient_of_chosen_responses_nothing_is_left(self):
        assert projected_gradient(torch.zeros(4).double(), self.BASE).count_nonzero() == 0

    @pytest.mark.parametrize("factor", [1.0, 0.3, 1e-200, 1e200])
    def test_of_parallel_gradients_nothing_is_left(self, factor):
        left = projected_gradient(self.BASE, factor * self.BASE)
        assert left.abs().max() <= NEGLIGIBLE

    @pytest.mark.parametrize("factor", [1.0, 0.3, 1e-200, 1e200])
    def test_opposite_gradients_do_not_stand_in_each_others_way(self, factor):
        assert torch.equal(projected_gradient(self.BASE, -factor * self.BASE), self.BASE)

    def test_orthogonal_gradients_do_not_stand_in_each_others_way(self):
        first, second = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 3.0, 0.0])
        assert torch.equal(projected_gradient(first, second), first)

    def test_many_at_once_are_each_alone(self):
        chosen, rejected = torch.tensor(random_numbers(5, 2, 6, 4), dtype=torch.float64)
        together = projected_gradient(chosen, rejected)
        for i in range(6):
            assert_same(together[i], projected_gradient(chosen[i], rejected[i]))

    def test_a_step_against_it_does_not_make_rejected_responses_likelier_to_first_order(self):
        # descending the nll of chosen responses along g changes that of rejected ones by −g·g_l ≥ 0
        for seed in range(20):
            chosen, rejected = torch.tensor(random_numbers(seed, 2, 5), dtype=torch.float64)
            assert (projected_gradient(chosen, rejected) @ rejected).item() <= NEGLIGIBLE


class TestByHand:
    """Numbers that were derived by hand."""

    def test_simpo_is_larger_the_larger_the_margin_that_is_asked_for(self):
        # β(a_w − a_l) = 2(−1 + 3) = 4, so the loss is S(4 − γ)
        losses = [objective("simpo", beta=2.0, gamma=g)(one_pair(-1.0, -3.0)).item() for g in (0.0, 1.0, 4.0)]
        assert losses == pytest.approx([math.log1p(math.exp(g - 4.0)) for g in (0.0, 1.0, 4.0)], rel=1e-15)

    def test_slic_without_likelihood_is_the_hinge(self):
        loss = objective("slic", delta=1.0, lam=0.0)
        assert loss(make_pairs([Pair(-1.0, -1.5), Pair(-1.0, -4.0)])).tolist() == [0.5, 0.0]

    def test_calibration_vanishes_where_the_log_ratios_are_plus_and_minus_half_of_one_over_beta(self):
        # h_w = 1, h_l = −1 and 1/(2β) = 1: only S(2) remains, whatever the weight
        pairs = one_pair(-1.0, -3.0, -2.0, -2.0)
        for weight in (0.5, 1.0, 100.0):
            loss = objective("cal_dpo", beta=0.5, calibration_weight=weight)
            assert loss(pairs).item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-15)
        assert objective("sppo", beta=0.5)(pairs).tolist() == [0.0]

    def test_calibration_is_weighted(self):
        pairs = one_pair(-1.0, -3.0, -1.0, -1.0)
        full, half = (objective("cal_dpo", calibration_weight=c)(pairs).item() for c in (1.0, 0.5))
        # h = (0, −2), 1/(2β) = 5: calibration 25 + 9 = 34
        assert full - half == pytest.approx(17.0, rel=1e-15)

    def test_the_penalty_of_dpop_stands_inside_the_sigmoid_and_is_multiplied_by_beta(self):
        # h_w = −1, h_l = −3: β(D − λ·1) = 0.5(2 − 4) = −1
        loss = objective("dpop", beta=0.5, lam=4.0)
        assert loss(one_pair(-2.0, -4.0, -1.0, -1.0)).item() == pytest.approx(math.log1p(math.exp(1.0)), rel=1e-15)

    def test_the_nll_of_cpo_is_summed_over_tokens_and_stands_outside_the_sigmoid(self):
        loss = objective("cpo", beta=0.5, lam=3.0)
        want = math.log1p(math.exp(-0.5 * 2.0)) + 3.0 * 1.0
        assert loss(one_pair(-1.0, -3.0, -1.0, -1.0, 4.0, 2.0)).item() == pytest.approx(want, rel=1e-15)

    def test_kto_falls_when_the_rejected_response_falls(self):
        loss = objective("kto", beta=1.0)
        falling = [loss(one_pair(-1.0, x)).item() for x in (-1.0, -2.0, -4.0)]
        assert falling == sorted(falling, reverse=True)

    @pytest.mark.parametrize("beta", [0.1, 2.0])
    def test_the_implicit_reward_of_dpo_is_beta_times_the_log_ratio(self, beta):
        log_pi, log_ref, length = table()
        reward = objective("dpo", beta=beta).implicit_reward(Responses(log_pi, log_ref, length))
        assert_same(reward, beta * (log_pi - log_ref))

    def test_dpo_does_not_see_what_both_responses_share(self):
        shifted = objective("dpo")(one_pair(-1.0 - 4.0, -2.0 - 4.0, -1.5, -1.25))
        assert_same(shifted, objective("dpo")(one_pair(-1.0, -2.0, -1.5, -1.25)))

    @pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "exponential", "log_pi", "aot_unpaired"])
    def test_every_point_of_the_grid_is_another_loss(self, name):
        values = [tuple(objective(name, **point)(make_pairs(ORDINARY)).tolist()) for point in grid_of(name)]
        assert len(set(values)) == len(values)
