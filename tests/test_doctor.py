"""The doctor of losses: it finds planted bugs and names them, and raises no alarm about a loss that is right."""

import json
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import logsigmoid

from didsim import OBJECTIVES, Pairs, check_loss, objective
from didsim._terminal import SCHEMA_VERSION
from didsim.doctor import Finding, Match, Report, example_loss, load_loss
from didsim.doctor._batches import extremes, generic_batches
from didsim.doctor._check import hinted_name
from didsim.doctor._subject import quantity_of
from didsim.objectives import BoundObjective, Objective


@cache
def report_of(function) -> Report:
    """Return the report of a loss with its own hyperparameters, made once."""
    return check_loss(function)


def sentence(report: Report, name: str) -> str:
    """Return the graver sentence of that name; there is one."""
    return next(finding.sentence for finding in report.findings if finding.name == name)


def problems(report: Report) -> dict[str, str]:
    return {finding.name: finding.sentence for finding in report.findings if finding.status == "problem"}


def alarms(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.status in {"problem", "warning"}]


def margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    return (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)


# --- losses that are right --------------------------------------------------------------------------------


def preference_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    beta,
    label_smoothing=0.0,
    ipo=False,
    reference_free=False,
):
    """The form of the DPO authors' own repository."""
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    logits = pi_logratios - (0 if reference_free else ref_logratios)
    losses = -logsigmoid(beta * logits) * (1 - label_smoothing) - logsigmoid(-beta * logits) * label_smoothing
    return losses, (beta * pi_logratios).detach(), (beta * ref_logratios).detach()


def dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l))


def dpo_mean(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta).mean()


def dpo_sum(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta).sum()


def dpo_with_a_number(log_pi_w, log_pi_l, log_ref_w, log_ref_l):
    return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, 0.05)


def simpo(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps / chosen_length - rejected_logps / rejected_length) - gamma).mean()


def simpo_of_means(chosen_logps, rejected_logps, beta=2.0, gamma_beta_ratio=0.25):
    """The form of the SimPO repository: means over tokens go in, and γ is a ratio."""
    return -logsigmoid(beta * (chosen_logps - rejected_logps - gamma_beta_ratio))


def ipo_mean(pi_logp_w, pi_logp_l, ref_logp_w, ref_logp_l, len_w, len_l, beta=0.1):
    """The form of TRL, where τ is called β."""
    return ((pi_logp_w - ref_logp_w) / len_w - (pi_logp_l - ref_logp_l) / len_l - 1 / (2 * beta)) ** 2


def ipo(pi_logp_w, pi_logp_l, ref_logp_w, ref_logp_l, tau=0.1):
    return (margin(pi_logp_w, pi_logp_l, ref_logp_w, ref_logp_l) - 1 / (2 * tau)) ** 2


def orpo(chosen_logps, rejected_logps, lengths_chosen, lengths_rejected, weight=0.1):
    a_w, a_l = chosen_logps / lengths_chosen, rejected_logps / lengths_rejected
    log_odds = (a_w - a_l) - (torch.log(-torch.expm1(a_w)) - torch.log(-torch.expm1(a_l)))
    return (-a_w - weight * logsigmoid(log_odds)).mean()


def cpo(policy_chosen_logps, policy_rejected_logps, beta=0.1, cpo_alpha=1.0):
    return -logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps)) - cpo_alpha * policy_chosen_logps


def r_dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, len_w, len_l, beta=0.1, alpha=0.05):
    return -logsigmoid(beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l) + alpha * (len_w - len_l))


def slic_of_pairs(pairs, *, delta=1.0, lam=0.1):
    chosen, rejected = pairs.chosen.log_pi, pairs.rejected.log_pi
    return torch.relu(delta - chosen + rejected) - lam * chosen


RIGHT = {
    preference_loss: ("cdpo", "none"),
    dpo: ("dpo", "none"),
    dpo_mean: ("dpo", "mean"),
    dpo_sum: ("dpo", "sum"),
    dpo_with_a_number: ("dpo", "none"),
    simpo: ("simpo", "mean"),
    simpo_of_means: ("simpo", "none"),
    ipo: ("ipo", "none"),
    ipo_mean: ("ipo", "none"),
    orpo: ("orpo", "mean"),
    cpo: ("cpo", "none"),
    r_dpo: ("r_dpo", "none"),
    slic_of_pairs: ("slic", "none"),
}


def beta_of(function) -> dict[str, float]:
    return {"beta": 0.1} if function is preference_loss else {}


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: f.__name__)
def test_a_loss_that_is_right_raises_no_alarm_and_is_recognised(function):
    report = check_loss(function, **beta_of(function))
    assert alarms(report) == []
    assert (report.equals[0].name, report.equals[0].aggregation) == RIGHT[function]
    assert report.equals[0].follows


def test_the_hyperparameters_of_the_objective_are_told():
    [match] = [match for match in check_loss(simpo_of_means, beta=3.0).equals if match.name == "simpo"]
    assert match.hyperparameters == {"beta": 3.0, "gamma": 0.75, "gamma_form": "absolute"}  # the ratio times β
    [match] = [match for match in report_of(ipo_mean).equals if match.name == "ipo"]
    assert match.hyperparameters == {"tau": 0.1, "aggregation": "mean"}


def test_a_margin_per_unit_of_beta_is_recognised_as_that_convention():
    report = report_of(gamma_times_beta)
    assert report.ok
    assert "simpo at β = 2, γ = 0.5, gamma_form = ratio" in sentence(report, "objective")


def test_a_loss_without_lengths_is_said_to_need_means():
    assert "if the log-probabilities are means over tokens" in sentence(report_of(simpo_of_means), "objective")
    assert "means over tokens" not in sentence(report_of(simpo), "objective")


def comparable(record: Objective) -> bool:
    return record.gradient_rule is None and record.bind().needs <= {"reference", "length", "batch"}


@pytest.mark.parametrize("name", [name for name, record in OBJECTIVES.items() if comparable(record)])
def test_a_registered_objective_is_healthy_and_recognised(name):
    report = check_loss(objective(name))
    assert alarms(report) == []
    assert report.equals[0].name == name
    assert report.equals[0].follows


@pytest.mark.parametrize("name", [name for name, record in OBJECTIVES.items() if not comparable(record)])
def test_what_needs_more_than_whole_responses_is_refused(name):
    with pytest.raises(ValueError, match=r"log π, log π_ref and length"):
        check_loss(objective(name))
    with pytest.raises(ValueError, match="objective must be"):
        check_loss(dpo, objective=name)


# --- ten planted bugs, and some more ----------------------------------------------------------------------


def wrong_sign(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(-beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l))


def missing_minus(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return logsigmoid(beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l)).mean()


def missing_beta(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l))


def beta_twice(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    reward_w, reward_l = beta * (log_pi_w - log_ref_w), beta * (log_pi_l - log_ref_l)
    return -logsigmoid(beta * (reward_w - reward_l)).mean()


def sum_for_mean(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps - rejected_logps) - gamma)


def swapped_reference(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(beta * ((log_pi_w - log_ref_l) - (log_pi_l - log_ref_w)))


def detached_policy(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(beta * margin(log_pi_w.detach(), log_pi_l.detach(), log_ref_w, log_ref_l))


def half_detached_policy(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(beta * margin(log_pi_w, log_pi_l.detach(), log_ref_w, log_ref_l)).sum()


def unused_gamma(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps / chosen_length - rejected_logps / rejected_length))


def log_of_sigmoid(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -torch.log(torch.sigmoid(beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l)))


def changed_in_place(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    log_pi_w -= log_ref_w
    log_pi_l -= log_ref_l
    return -logsigmoid(beta * (log_pi_w - log_pi_l))


def length_of_the_wrong_side(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps / rejected_length - rejected_logps / chosen_length) - gamma)


def one_length_for_both(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps - rejected_logps) / chosen_length - gamma)


def beta_on_the_policy_alone(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -logsigmoid(beta * (log_pi_w - log_pi_l) - (log_ref_w - log_ref_l))


def wrong_sign_of_gamma(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps / chosen_length - rejected_logps / rejected_length) + gamma)


def gamma_times_beta(chosen_logps, rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -logsigmoid(beta * (chosen_logps / chosen_length - rejected_logps / rejected_length - gamma))


def length_penalty_of_the_wrong_sign(log_pi_w, log_pi_l, log_ref_w, log_ref_l, len_w, len_l, beta=0.1, alpha=0.05):
    return -logsigmoid(beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l) - alpha * (len_w - len_l))


def epsilon_in_the_logarithm(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return -torch.log(torch.sigmoid(beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l)) + 1e-8)


def partly_detached(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    logits = beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l)
    return -0.5 * logsigmoid(logits) - 0.5 * logsigmoid(logits.detach())


PLANTED = {
    wrong_sign: ("objective", "sign of the margin is flipped", "dpo at β = 0.1"),
    missing_minus: ("objective", "sign of the loss is flipped", "minus dpo at β = 0.1"),
    missing_beta: ("arguments", "beta is accepted and ignored", "β is missing", "equals dpo at β = 1"),
    beta_twice: ("objective", "β enters twice", "equals dpo at β² = 0.01 in place of β = 0.1"),
    sum_for_mean: ("objective", "Sum for mean", "not divided by the length", "simpo"),
    swapped_reference: ("objective", "reference is swapped", "log π(y_w) is set against log π_ref(y_l)", "dpo"),
    detached_policy: ("gradient", "policy is detached", "no gradient reaches it"),
    half_detached_policy: ("gradient", "policy is detached on one side", "no gradient reaches log π(y_l)"),
    unused_gamma: ("arguments", "gamma is accepted and ignored", "γ is missing", "equals simpo at β = 2, γ = 0"),
    log_of_sigmoid: ("extremes", "log(sigmoid(x))", "in place of logsigmoid", "infinite", "the true value is 700"),
    changed_in_place: ("in-place change", "changes log_pi_w and log_pi_l in place"),
    length_of_the_wrong_side: (
        "objective",
        "lengths are of the wrong side",
        "log π(y_w) is divided by the length of the rejected response",
        "simpo",
    ),
    one_length_for_both: ("objective", "length is of the wrong side", "both", "length of the chosen one", "simpo"),
    beta_on_the_policy_alone: ("objective", "β multiplies the policy's log-probabilities only", "dpo"),
    wrong_sign_of_gamma: ("objective", "γ has the wrong sign", "simpo"),
    length_penalty_of_the_wrong_sign: ("objective", "α has the wrong sign", "r_dpo"),
    epsilon_in_the_logarithm: ("extremes", "epsilon inside a logarithm", "the true value is 70"),
    partly_detached: ("gradient", "not the slope of the value", "detached"),
}


@pytest.mark.parametrize("function", PLANTED, ids=lambda f: f.__name__)
def test_a_planted_bug_is_found_and_named(function):
    finding, *words = PLANTED[function]
    said = problems(report_of(function))[finding]
    assert [word for word in words if word not in said] == []


def mean_for_sum(log_pi_w, log_pi_l, log_ref_w, log_ref_l, len_w, len_l, beta=0.1):
    return dpo((log_pi_w / len_w), (log_pi_l / len_l), (log_ref_w / len_w), (log_ref_l / len_l), beta)


def test_mean_for_sum_is_a_bug_if_dpo_is_meant():
    said = problems(check_loss(mean_for_sum, objective="dpo"))["objective"]
    assert said.startswith("Mean for sum: log π and log π_ref are divided by the length, where dpo")
    assert "equals dpo_norm at β = 0.1" in said


def test_mean_for_sum_is_another_objective_if_nothing_is_meant():
    report = check_loss(mean_for_sum)
    assert alarms(report) == []
    assert report.equals[0].name == "dpo_norm"


def test_mean_for_sum_is_warned_of_if_the_name_says_dpo(monkeypatch):
    monkeypatch.setattr(mean_for_sum, "__name__", "my_dpo_loss")
    [warning] = alarms(check_loss(mean_for_sum))
    assert warning.status == "warning"
    assert "Mean for sum" in warning.sentence


def test_a_missing_reference_is_a_bug_if_dpo_is_meant():
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
        return -logsigmoid(beta * (log_pi_w - log_pi_l))

    report = check_loss(loss)
    assert (report.ok, report.equals[0].name) == (True, "log_pi")
    assert [finding.name for finding in alarms(report)] == ["arguments"]
    assert "log_ref_w and log_ref_l" in alarms(report)[0].sentence
    assert problems(check_loss(loss, objective="dpo"))["objective"].startswith("The reference is missing")


@pytest.mark.parametrize("name", ["loss", "dpo_loss"])
def test_a_beta_of_one_hides_nothing(name):
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=1.0):
        return -logsigmoid(beta * beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l))

    loss.__name__ = name
    assert problems(check_loss(loss))["objective"].startswith("β enters twice")


def test_each_bug_has_sentences_of_its_own():
    said = {function: problems(report_of(function))[words[0]] for function, words in PLANTED.items()}
    assert len(set(said.values())) == len(PLANTED)


def test_a_loss_that_is_not_what_it_was_said_to_be_is_a_problem():
    said = problems(check_loss(ipo, objective="dpo"))["objective"]
    assert said.startswith("It was said to be dpo, and it is not.")
    assert "equals ipo at τ = 0.1" in said


def test_an_unknown_loss_is_no_alarm():
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
        return torch.atan(-beta * margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l))

    report = check_loss(loss)
    assert (alarms(report), report.equals) == ([], ())
    assert "no registered objective" in sentence(report, "objective")


def test_a_multiple_of_an_objective_is_a_warning():
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
        return 3.0 * dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta)

    [warning] = alarms(check_loss(loss))
    assert "3 times dpo at β = 0.1" in warning.sentence


# --- what is said of a sound loss -------------------------------------------------------------------------


def test_the_start_of_dpo_is_log_2_with_half_of_beta_as_its_gradient():
    said = sentence(report_of(dpo_sum), "at the reference")
    assert "0.6931 = log 2" in said
    assert "-0.05 on log π(y_w) and +0.05 on log π(y_l)" in said


@pytest.mark.parametrize(("function", "moves"), [(dpo, False), (simpo, True), (cpo, True), (orpo, True)])
def test_a_shift_of_log_probabilities_is_told_apart_from_one_of_logits(function, moves):
    said = sentence(report_of(function), "shift")
    assert "unchanged when a constant is added to the logits" in said
    assert ("changes it" in said) == moves


@pytest.mark.parametrize(("function", "used"), [(dpo, True), (simpo, False), (slic_of_pairs, False)])
def test_the_use_of_the_reference_is_told(function, used):
    assert sentence(report_of(function), "reference") == f"The reference policy is {'' if used else 'not '}used."


@pytest.mark.parametrize(("function", "word"), [(dpo, "one loss per pair"), (dpo_mean, "mean"), (dpo_sum, "sum")])
def test_the_aggregation_is_told(function, word):
    assert word in sentence(report_of(function), "aggregation")


def test_a_number_that_is_neither_mean_nor_sum_is_a_warning():
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l):
        return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l).sum().sqrt()

    assert "aggregation" in [finding.name for finding in alarms(check_loss(loss))]


def test_a_stopped_gradient_of_the_method_is_no_alarm():
    report = check_loss(objective("alpha_dpo", alpha=0.2))
    assert "alpha_dpo stops it in places, by its definition" in sentence(report, "gradient")


def test_a_stopped_gradient_that_is_missing_is_found():
    def loss(pairs, *, beta=0.1, alpha=0.6):
        difference = pairs.chosen.log_ratio - pairs.rejected.log_ratio
        margins = beta * difference
        return -logsigmoid(beta * (1.0 + alpha * (margins - margins.mean())) * difference)

    assert "equals beta_dpo" in problems(check_loss(loss))["objective"]


def test_a_hyperparameter_that_acts_on_extremes_only_is_not_ignored():
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l, cap=100.0):
        return -logsigmoid(margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l).clamp(-cap, cap))

    assert "arguments" not in problems(check_loss(loss))


def test_log_odds_by_log1p_are_found_near_probability_one():
    def loss(chosen_logps, rejected_logps, lam=0.1):
        odds = chosen_logps - rejected_logps - torch.log1p(-chosen_logps.exp()) + torch.log1p(-rejected_logps.exp())
        return -chosen_logps - lam * logsigmoid(odds)

    said = problems(check_loss(loss))["extremes"]
    assert "log(1 − e^x)" in said
    assert "expm1" in said


# --- forms of functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "quantity"),
    [
        ("log_pi_chosen", "log_pi_chosen"),
        ("policy_rejected_logps", "log_pi_rejected"),
        ("chosen_logps", "log_pi_chosen"),
        ("pi_logp_w", "log_pi_chosen"),
        ("logp_l", "log_pi_rejected"),
        ("log_ref_l", "log_ref_rejected"),
        ("reference_chosen_logps", "log_ref_chosen"),
        ("ref_rejected_logprobs", "log_ref_rejected"),
        ("chosen_lengths", "length_chosen"),
        ("len_l", "length_rejected"),
        ("chosen", None),
        ("beta", None),
        ("length_logps_chosen", None),
        ("chosen_rejected_logps", None),
        ("chosen_logps_mask", None),
    ],
)
def test_an_argument_is_known_by_the_words_of_its_name(argument, quantity):
    assert quantity_of(argument) == quantity


def of_pairs(pairs, *, beta=0.1):
    return -logsigmoid(beta * (pairs.chosen.log_ratio - pairs.rejected.log_ratio))


def of_annotated_pairs(batch: Pairs, beta: float = 0.1):
    return of_pairs(batch, beta=beta)


def by_position(log_pi_w, log_pi_l, log_ref_w, log_ref_l, /, beta=0.1):
    return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta)


def in_another_order(*, ref_rejected_logps, rejected_logps, beta=0.1, ref_chosen_logps=None, chosen_logps, **unused):
    return dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)


def with_a_word(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1, loss_type="sigmoid"):
    assert loss_type == "sigmoid"
    return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta), {"metrics": 1}


def in_single_precision(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
    return dpo(log_pi_w.float(), log_pi_l.float(), log_ref_w.float(), log_ref_l.float(), beta).mean()


class Module(torch.nn.Module):
    def forward(self, log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
        return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta)


class Callable:
    def __call__(self, log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
        return [dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta)]


FORMS = [of_pairs, of_annotated_pairs, by_position, in_another_order, with_a_word, in_single_precision]


@pytest.mark.parametrize("function", [*FORMS, Module(), Callable(), OBJECTIVES["dpo"], objective("dpo", beta=0.1)])
def test_a_function_may_have_many_forms(function):
    report = check_loss(function)
    assert alarms(report) == []
    assert report.equals[0].name == "dpo"


def test_single_precision_inside_is_told():
    assert "float32 comes out" in sentence(report_of(in_single_precision), "float64")


def test_a_function_without_float64_is_examined_in_float32():
    def loss(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta=0.1):
        if log_pi_w.dtype != torch.float32:
            raise TypeError("float32 only")
        return dpo(log_pi_w, log_pi_l, log_ref_w, log_ref_l, beta)

    report = check_loss(loss)
    [warning] = alarms(report)
    assert "float64 is not supported" in warning.sentence
    assert "float32 only" in warning.sentence
    assert report.equals[0].name == "dpo"


def test_hyperparameters_may_be_given():
    report = check_loss(dpo, beta=0.3)
    assert report.hyperparameters == {"beta": 0.3}
    assert report.equals[0].hyperparameters == {"beta": 0.3}
    assert check_loss(OBJECTIVES["dpo"], beta=0.3).equals[0] == report.equals[0]


def test_the_loss_is_called_with_pairs_as_they_are_given_to_everyone():
    for batch in generic_batches():
        pairs = Pairs.from_log_probs(**batch)
        assert bool((pairs.chosen.num_tokens != pairs.rejected.num_tokens).any())
        margins = pairs.chosen.log_ratio - pairs.rejected.log_ratio
        assert float(margins.min()) < 0 < float(margins.max())


def test_extremes_reach_what_they_promise():
    cases = extremes(0.1)
    margins = {text: float(margin(*list(pair.values())[:4])) for text, pair in cases.items()}
    assert {round(value, 6) for value in margins.values()} == {-2e4, -7e3, -7e2, 0.0, 7e2, 7e3, 2e4}
    assert all(float(pair["log_pi_chosen"]) <= 0 for pair in cases.values())


@pytest.mark.parametrize(
    ("name", "expected"), [("dpo_loss", "dpo"), ("cal_dpo", "cal_dpo"), ("SimPO", "simpo"), ("adopt", ""), ("loss", "")]
)
def test_the_name_of_a_function_is_a_hint(name, expected):
    assert hinted_name(name, list(OBJECTIVES)) == expected


# --- functions that fail ----------------------------------------------------------------------------------


def raises(log_pi_w, log_pi_l):
    raise RuntimeError("this is the text")


def returns_a_number(log_pi_w, log_pi_l):
    return (log_pi_l - log_pi_w).mean().item()


def returns_nothing(log_pi_w, log_pi_l):
    pass


def broadcasts(log_pi_w, log_pi_l):
    return log_pi_l[:, None] - log_pi_w


def fails_on_extremes(log_pi_w, log_pi_l, beta=1.0):
    if bool((log_pi_w < -1000).any()):
        raise ValueError("too small")
    return -logsigmoid(beta * (log_pi_w - log_pi_l))


def draws(log_pi_w, log_pi_l):
    return (log_pi_l - log_pi_w) * torch.rand(())


@pytest.mark.parametrize(
    ("function", "finding", "words"),
    [
        (raises, "call", ["RuntimeError: this is the text", "test_doctor.py, line"]),
        (returns_a_number, "call", ["returned a float, not a tensor"]),
        (returns_nothing, "call", ["returned a NoneType"]),
        (broadcasts, "call", ["the shape (8, 8) for 8 pairs"]),
        (fails_on_extremes, "extremes", ["ValueError: too small"]),
        (draws, "repetition", ["different losses"]),
    ],
)
def test_a_function_that_fails_is_reported_in_words(function, finding, words):
    said = problems(check_loss(function))[finding]
    assert [word for word in words if word not in said] == []


def unknown_argument(chosen_logps, rejected_logps, mask):
    return chosen_logps - rejected_logps


def no_rejected(chosen_logps, beta=0.1):
    return chosen_logps


def twice(chosen_logps, log_pi_w, rejected_logps):
    return chosen_logps


@pytest.mark.parametrize(
    ("function", "given", "error", "words"),
    [
        (unknown_argument, {}, ValueError, ["'mask'", "-S mask=", "policy_chosen_logps"]),
        (preference_loss, {}, ValueError, ["'beta'", "no default", "-S beta=0.1"]),
        (no_rejected, {}, TypeError, ["no log_pi_rejected", "chosen_logps, beta"]),
        (twice, {}, TypeError, ["log_pi_chosen twice"]),
        (dpo, {"bta": 1.0}, ValueError, ["Did you mean beta?"]),
        (dpo, {"objective": "dop"}, ValueError, ["Did you mean"]),
        (objective("dpo"), {"beta": -1.0}, ValueError, ["beta must be"]),
        (Module, {}, TypeError, ["must be a function"]),
        (3, {}, TypeError, ["must be a function"]),
    ],
)
def test_what_cannot_be_examined_is_refused_in_words(function, given, error, words):
    with pytest.raises(error) as caught:
        check_loss(function, **given)
    assert [word for word in words if word not in str(caught.value)] == []


# --- the report -------------------------------------------------------------------------------------------


def test_the_gravest_findings_come_first():
    order = ["problem", "warning", "ok", "info"]
    places = [order.index(finding.status) for finding in report_of(beta_twice).findings]
    assert all(earlier <= later for earlier, later in pairwise(places))


def test_the_report_prints_every_finding():
    report = report_of(beta_twice)
    text = " ".join(str(report).split())
    assert all(finding.sentence in text for finding in report.findings)
    assert text.startswith("beta_twice(beta=0.1) problem objective: β enters twice")
    assert text.endswith("Found 1 problem and 1 warning.")
    assert str(report_of(dpo)).endswith("No problem found.")


def test_a_match_is_worded_with_greek_letters():
    assert str(Match("simpo", {"beta": 2.0, "gamma": 0.5}, "mean", True)) == "simpo at β = 2, γ = 0.5"
    assert str(Match("simper", {}, "none", True)) == "simper"


def test_the_document_of_a_report_is_json():
    document = check_loss(dpo, beta=0.2).document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["equals"][0] == {
        "name": "dpo",
        "hyperparameters": {"beta": 0.2},
        "aggregation": "none",
        "follows": True,
    }


def test_an_objective_is_bound_without_its_domain_when_it_is_varied():
    report = check_loss(BoundObjective(OBJECTIVES["cdpo"], {"beta": 1.0, "label_smoothing": 0.49}))
    assert report.ok


# --- the command ------------------------------------------------------------------------------------------

MINE = """
print("a module that speaks")
import torch

scale = 0.1

def sound(chosen_logps, rejected_logps, beta=0.1, reference_free=True):
    print("a function that speaks")
    return -torch.nn.functional.logsigmoid(beta * (chosen_logps - rejected_logps)).mean()

def odd(chosen_logps, rejected_logps, beta):
    return torch.nn.functional.logsigmoid(beta * (chosen_logps - rejected_logps)).mean()

def broken(chosen_logps, rejected_logps):
    return chosen_logps.nothing

class holder:
    loss = staticmethod(sound)
"""


@pytest.fixture
def mine(here):
    """A module of the user's in the current directory; its name is new, since Python remembers modules."""
    name = f"mine_{here.name}"
    (here / f"{name}.py").write_text(MINE)
    return name


class Case(NamedTuple):
    """Arguments after the module's name, the exit code, and what is said."""

    arguments: str
    code: int
    words: tuple[str, ...]


CASES = [
    Case(":sound", 0, ("equals log_pi at β = 0.1", "No problem found.")),
    Case(".py:sound", 0, ("equals log_pi",)),
    Case(":holder.loss", 0, ("equals log_pi",)),
    Case(":sound -S beta=0.5", 0, ("sound(beta=0.5, reference_free='True')", "β = 0.5")),
    Case(":sound -S reference_free=false", 0, ("reference_free='False'",)),
    Case(":sound --objective log_pi", 0, ("equals log_pi",)),
    Case(":odd -S beta=2", 1, ("problem  objective: The sign of the loss is flipped",)),
    Case(":sound --objective dpo", 1, ("The reference is missing",)),
    Case(":broken", 1, ("problem  call:", "AttributeError", ".py, line 15")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.arguments)
def test_the_command_ends_with_0_or_1_and_says_why(run, mine, case):
    first, *rest = case.arguments.split()
    done = run("check-loss", mine + first, *rest)
    assert done.code == case.code, done.stderr
    assert done.stderr == ""
    text = " ".join(done.stdout.split())
    assert [words for words in case.words if " ".join(words.split()) not in text] == []
    assert "speaks" not in text
    assert "Traceback" not in text


REFUSED = [
    Case(":odd", 2, ("'beta', which has no default", "-S beta=0.1")),
    Case(":sond", 2, ("no function 'sond'", "Did you mean sound")),
    Case(":scale", 2, ("must be a function", "float")),
    Case(":torch", 2, ("must be a function",)),
    Case("_missing:loss", 2, ("cannot be imported", "ModuleNotFoundError")),
    Case("_missing.py:loss", 2, ("cannot be imported", "No such file")),
    Case("", 2, ("module:function",)),
    Case(":sound --objective dop", 2, ("Did you mean",)),
    Case(":sound -S beta", 2, ("NAME=VALUE",)),
    Case(":sound -S beta=1 -S beta=2", 2, ("once for each name",)),
    Case(":sound -S beta=1,5", 2, ("decimal point",)),
    Case(":sound -S bet=1", 2, ("Did you mean beta?",)),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.arguments or "no function")
def test_the_command_refuses_in_words(run, mine, case):
    first, *rest = case.arguments.split() or [""]
    done = run("check-loss", mine + first, *rest)
    assert done.code == 2
    assert done.stdout == ""
    assert [words for words in case.words if words not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("body", ["raise KeyError('x')", "import sys; sys.exit(3)", "def f(:"])
def test_a_module_that_cannot_be_imported_is_refused(run, here, body):
    (here / f"bad_{here.name}.py").write_text(body)
    for target in (f"bad_{here.name}:loss", f"bad_{here.name}.py:loss"):
        done = run("check-loss", target)
        assert done.code == 2
        assert "cannot be imported" in done.stderr


def test_the_command_prints_one_document(run, mine):
    for arguments, ok in (([f"{mine}:sound"], True), ([f"{mine}:odd", "-S", "beta=1"], False)):
        done = run("check-loss", *arguments, "--json")
        document = json.loads(done.stdout)
        assert done.code == (0 if ok else 1)
        assert (document["schema_version"], document["ok"]) == (SCHEMA_VERSION, ok)
        assert {finding["status"] for finding in document["findings"]} <= {"ok", "info", "warning", "problem"}


def test_the_search_path_is_as_it_was_when_the_function_is_released(mine):
    import sys

    before = list(sys.path)
    with load_loss(f"{mine}:sound") as function:
        assert function.__name__ == "sound"
        assert sys.path != before
    assert sys.path == before


def test_the_example_is_healthy():
    assert check_loss(example_loss).ok
