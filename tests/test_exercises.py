"""The exercises: references are right, wrong answers are found and named, and a student's file can do no harm."""

import ast
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import didsim as ds
from didsim.doctor import check_loss
from didsim.lessons.exercises import FILES
from didsim.lessons.grading import EXERCISES, Exercise, Quiz, check_file, solution
from didsim.lessons.grading._check import START_UP
from didsim.lessons.grading._process import examine
from didsim.lessons.grading._zoo import CURVES, MISTAKES, ZOO_CURVES
from didsim.lessons.grading.specimens import BETA, LOSSES, STEPS, curves, problem

FUNCTIONS = {name: exercise for name, exercise in EXERCISES.items() if isinstance(exercise, Exercise)}
QUIZZES = {name: exercise for name, exercise in EXERCISES.items() if isinstance(exercise, Quiz)}

WRONG = [
    ("ex01", "return logits - np.log(np.exp(logits).sum())", "exp overflows"),
    ("ex01", "p = np.exp(logits - logits.max())\nreturn np.log(p / p.sum())", "underflowed"),
    ("ex01", "p = np.exp(logits - logits.max())\nreturn p / p.sum()", "These are probabilities"),
    ("ex01", "return logits - logits.max()", ""),
    ("ex02", "return np.sum(p * np.log(p / q))", "0 · log 0"),
    ("ex02", "m = q > 0\nreturn np.sum(q[m] * np.log(q[m] / p[m]))", "the two arguments are exchanged"),
    ("ex02", "m = p > 0\nreturn np.sum(p[m] * np.log2(p[m] / q[m]))", "in bits"),
    ("ex02", "return np.sum(p * np.log((p + 1e-12) / (q + 1e-12)))", "small number inside a logarithm"),
    ("ex02", "m = (p > 0) & (q > 0)\nreturn np.sum(p[m] * np.log(p[m] / q[m]))", "the divergence is infinite"),
    ("ex03", "w = reference * np.exp(reward * beta)\nreturn w / w.sum()", "multiplied by β"),
    ("ex03", "w = np.exp((reward - reward.max()) / beta)\nreturn w / w.sum()", "π_ref is missing"),
    ("ex03", "w = reference * np.exp(reward / beta)\nreturn w / w.sum()", "exp(r/β) overflows"),
    ("ex03", "return reference * np.exp(reward / beta)", "do not sum to 1"),
    ("ex04", "return np.stack([np.eye(len(reward))[reward.argmax()], reference])", "only the first is kept"),
    ("ex04", "b = 1.0 * (reward == reward.max())\nreturn np.stack([b / b.sum(), reference])", "not equally"),
    ("ex04", "b = reference * (reward == reward.max())\nreturn np.stack([b / b.sum(), reference])", "nan comes of"),
    ("ex04", "b = reference * (reward == reward.max())\nreturn b / b.sum()", "shape"),
    ("ex05", "return np.logaddexp(0, -beta * (log_pi_chosen - log_pi_rejected))", "The reference is missing"),
    (
        "ex05",
        "m = log_pi_chosen - log_pi_rejected - log_ref_chosen + log_ref_rejected\n"
        "return -np.log(1 / (1 + np.exp(-beta * m)))",
        "exp overflows",
    ),
    (
        "ex05",
        "m = log_pi_chosen - log_pi_rejected + log_ref_chosen - log_ref_rejected\nreturn np.logaddexp(0, -beta * m)",
        "The reference is added",
    ),
    (
        "ex05",
        "m = log_pi_chosen - log_pi_rejected - log_ref_chosen + log_ref_rejected\nreturn np.logaddexp(0, beta * m)",
        "Chosen and rejected are exchanged",
    ),
    (
        "ex05",
        "m = log_pi_chosen - log_pi_rejected - log_ref_chosen + log_ref_rejected\n"
        "return np.logaddexp(0, -beta * m).mean()",
        "mean over the pairs",
    ),
    ("ex06", "return beta * (1 - 1 / (1 + np.exp(-beta * margin)))", "1 − σ(βm) is 0"),
    ("ex06", "return beta / (1 + np.exp(-beta * margin))", "grows as the pair comes right"),
    ("ex06", "return 1 / (1 + np.exp(beta * margin))", "The factor β is missing"),
    ("ex07", "return policy / reference", "divide by its sum"),
    ("ex07", "r = reference / policy\nreturn r / r.sum()", "upside down"),
    ("ex07", "r = policy / reference\nreturn r / r.sum()", "0/0 is nan"),
    ("ex07", "r = policy * reference\nreturn r / r.sum()", "multiplies π and π_ref"),
    ("ex08", "w = reference * (target / reference) ** beta\nreturn w / w.sum()", "upside down"),
    ("ex08", "w = reference * (reference / target) * beta\nreturn w / w.sum()", "β is an exponent"),
    ("ex08", "w = (reference / target) ** beta\nreturn w / w.sum()", "first π_ref is missing"),
    ("ex08", "w = reference * (reference / target) ** beta\nreturn w / w.sum()", "The power overflows"),
    (
        "ex09",
        "h = np.log(policy / reference)\n"
        "t = np.outer(reference, rejected) * beta / (1 + np.exp(beta * (h[:, None] - h)))\nreturn t.sum(1) - t.sum(0)",
        "The sign is turned round",
    ),
    (
        "ex09",
        "h = np.log(policy / reference)\n"
        "t = np.outer(reference, rejected) * beta / (1 + np.exp(beta * (h[:, None] - h)))\nreturn -t.sum(1)",
        "Rejected responses pull too",
    ),
    (
        "ex09",
        "h = np.log(policy)\n"
        "t = np.outer(reference, rejected) * beta / (1 + np.exp(beta * (h[:, None] - h)))\nreturn t.sum(0) - t.sum(1)",
        "π_ref is missing",
    ),
    ("ex10", "w = reference * (target / reference) ** (1 / beta)\nreturn w / w.sum()", "where DPO at this β ends"),
    ("ex10", "w = (target / reference) ** beta\nreturn w / w.sum()", "The exponent is 1/β"),
    ("ex10", "return target", "This is the target"),
    ("ex10", "w = (target / reference) ** (1 / beta)\nreturn w / w.sum()", "The power overflows"),
    (
        "ex11",
        "s = logits / tau\ns = s - s.max()\nlp = s - np.log(np.exp(s).sum())\nreturn -np.sum(np.exp(lp) * lp)",
        "entropy of the target",
    ),
    ("ex11", "w = np.exp(logits / tau - logits)\nq = w / w.sum()\nreturn -np.sum(q * np.log2(q))", "in bits"),
    ("ex11", "w = np.exp(logits / tau - logits)\nq = w / w.sum()\nreturn -np.sum(q * np.log(q))", "underflows to 0"),
    ("ex11", "w = np.exp(logits - logits / tau)\nq = w / w.sum()\nreturn -np.sum(q * np.log(q))", "turned round"),
    (
        "ex12",
        "l = reference**2 / target\nc = np.log(target / reference)\nreturn (reference * c).sum(), (l * c).sum()",
        "π_l is not normalised",
    ),
    (
        "ex12",
        "c = np.log(target / reference)\nl = reference / np.exp(c)\nreturn target @ c, l @ c / l.sum()",
        "averaged under π*",
    ),
    (
        "ex12",
        "c = np.log(reference / target)\nl = reference * np.exp(c)\nreturn reference @ c, l @ c / l.sum()",
        "The signs are turned round",
    ),
    (
        "ex13",
        "return np.sum(prompts[:, None] * policy * np.log(policy / policy.mean(0)))",
        "The marginal is a plain mean",
    ),
    ("ex13", "return np.sum(prompts[:, None] * policy * np.log(policy / (prompts @ policy)))", "0 · log 0"),
    ("ex13", "return np.sum(prompts[:, None] * policy * np.log2(policy / (prompts @ policy)))", "in bits"),
    (
        "ex14",
        "m = log_pi_chosen - log_pi_rejected - log_ref_chosen + log_ref_rejected\n"
        "x = beta * (log_pi_chosen - log_pi_rejected) - gamma - alpha * beta * m\n"
        "return -torch.nn.functional.logsigmoid(x)",
        "Detach that",
    ),
    (
        "ex14",
        "m = log_pi_chosen - log_pi_rejected - log_ref_chosen + log_ref_rejected\n"
        "x = beta * (log_pi_chosen - log_pi_rejected) - gamma - alpha * beta * m\n"
        "return -torch.nn.functional.logsigmoid(x.detach())",
        "Nothing can be learnt",
    ),
    (
        "ex14",
        "m = log_pi_chosen - log_pi_rejected\n"
        "return -torch.nn.functional.logsigmoid(beta * m - gamma - alpha * beta * m.detach())",
        "The reference is missing in m",
    ),
    ("ex14", "return 0.5", "a torch tensor is expected"),
    (
        "ex15",
        "v = loss(log_ref_chosen, log_ref_rejected, log_ref_chosen, log_ref_rejected, beta)\n"
        "return bool(np.isclose(v, np.log(2))), True",
        "look at the slope too",
    ),
    (
        "ex15",
        "f = lambda a: loss(a, log_ref_rejected, log_ref_chosen, log_ref_rejected, beta)\n"
        "s = (f(log_ref_chosen + 1e-4) - f(log_ref_chosen - 1e-4)) / 2e-4\n"
        "return bool(np.isclose(f(log_ref_chosen), np.log(2))), bool(np.isclose(s, beta / 2, rtol=1e-3))",
        "The sign of the slope",
    ),
    ("ex15", "return 1, 1", "truth values are expected"),
    ("ex16", "w = np.outer(chosen, rejected)\nv = w * w.T / (w + w.T)\nreturn np.diag(v.sum(1)) - v", "nan comes of"),
    (
        "ex16",
        "w = np.outer(chosen, rejected)\nn = w + w.T\nn -= np.diag(np.diag(n))\nreturn np.diag(n.sum(1)) - n",
        "p(1 − p)",
    ),
    (
        "ex16",
        "w = np.outer(chosen, rejected)\nv = w * w.T / (w + w.T)\nreturn np.abs(np.diag(v.sum(1)) - v)",
        "rows do not sum to 0",
    ),
]
"""Plausible wrong answers: the exercise, the body that fills the hole, and what the message is to say."""  # fmt: skip


def filled(name: str, body: str) -> str:
    """Return the file of an exercise with its hole filled."""
    source = FILES[name].read_text("utf-8")
    assert source.count("    raise NotImplementedError") == 1
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return source[: source.index("    raise NotImplementedError")] + indented


def answered(name: str, answers: dict[str, str]) -> str:
    source = FILES[name].read_text("utf-8")
    for question, answer in answers.items():
        assert source.count(f'"{question}": ""') == 1
        source = source.replace(f'"{question}": ""', f'"{question}": "{answer}"')
    return source


def written(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(source, "utf-8")
    return path


# --- the references ---------------------------------------------------------------------------------------


def test_there_are_two_exercises_for_each_lesson_and_a_zoo():
    lessons = [exercise.lesson for exercise in EXERCISES.values()]
    assert lessons == sorted([*range(1, 9)] * 2 + [8, 8])
    assert list(FILES) == list(EXERCISES) == [f"ex{number:02}" for number in range(1, 19)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_solution_of_an_exercise_passes_its_check(name, tmp_path):
    source = FILES[name].read_text("utf-8")
    path = written(tmp_path, source[: source.index("\ndef ")] + "\n" + solution(name) + "\n")
    found = examine(path, name, 60.0)
    assert found["status"] == "right", found
    assert (found["random"], found["extremes"]) == (200, len(FUNCTIONS[name].extremes))


@pytest.mark.parametrize("name", QUIZZES)
def test_the_answers_of_a_quiz_pass_its_check(name, tmp_path):
    path = written(tmp_path, answered(name, QUIZZES[name].answers))
    assert examine(path, name, 10.0)["status"] == "right"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_file_and_the_reference_have_the_same_function(name):
    [mine] = [node for node in ast.parse(FILES[name].read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    [theirs] = ast.parse(solution(name)).body
    assert isinstance(theirs, ast.FunctionDef)
    assert (mine.name, ast.dump(mine.args)) == (theirs.name, ast.dump(theirs.args))
    assert [argument.arg for argument in mine.args.args] == list(FUNCTIONS[name].draw(np.random.default_rng(1)))


def log(values):
    with np.errstate(divide="ignore"):
        return np.log(values)


def dpo_gradient(policy, reference, rejected, beta):
    """Differentiate the registered objective by logits, over all pairs."""
    logits = torch.tensor(np.log(policy), requires_grad=True)
    log_pi, log_ref = torch.log_softmax(logits, 0), torch.tensor(np.log(reference))
    i, j = (index.reshape(-1) for index in torch.meshgrid(*[torch.arange(len(policy))] * 2, indexing="ij"))
    pairs = ds.Pairs.from_log_probs(
        log_pi_chosen=log_pi[i], log_pi_rejected=log_pi[j], log_ref_chosen=log_ref[i], log_ref_rejected=log_ref[j]
    )
    weights = torch.tensor(reference)[i] * torch.tensor(rejected)[j]
    return torch.autograd.grad((weights * ds.objective("dpo", beta=beta)(pairs)).sum(), logits)[0].numpy()


def registered(name, *logs, **settings):
    """Return an objective of the registry, and its gradient by the log-probabilities of the policy."""
    chosen, rejected, ref_chosen, ref_rejected = (torch.tensor(values, dtype=torch.float64) for values in logs)
    leaves = [chosen.requires_grad_(), rejected.requires_grad_()]
    one = torch.ones_like(chosen)
    pairs = ds.Pairs.from_log_probs(
        log_pi_chosen=chosen,
        log_pi_rejected=rejected,
        log_ref_chosen=ref_chosen,
        log_ref_rejected=ref_rejected,
        length_chosen=one,
        length_rejected=one,
    )
    loss = ds.objective(name, **settings)(pairs)
    return [loss.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(loss.sum(), leaves))]


def displaced(reference, target):
    there = ds.Problem.from_policies(reference, target)
    change = there.target.log_probs - there.reference.log_probs
    return [there.chosen.probs @ change, there.rejected.probs @ change]


def pair_problem(chosen, rejected):
    policies = (ds.Policy.from_probs(p) for p in (chosen, chosen, rejected, chosen))
    return ds.Problem(**dict(zip(("reference", "target", "rejected", "chosen"), policies, strict=True)))


LIBRARY = {
    "ex01": lambda logits: ds.Policy.from_logits(logits).log_probs,
    "ex02": ds.kl,
    "ex03": lambda reference, reward, beta: ds.Policy.from_logits(log(reference) + reward / beta).probs,
    "ex05": lambda *inputs: registered("dpo", *inputs[:4], beta=inputs[4])[0],
    "ex06": lambda margin, beta: -registered("dpo", margin, 0 * margin, 0 * margin, 0 * margin, beta=beta)[1],
    "ex07": lambda policy, reference: ds.did(policy, reference).probs,
    "ex08": lambda reference, target, beta: ds.ideal_rejected(reference, target, beta).probs,
    "ex09": dpo_gradient,
    "ex11": lambda logits, tau: ds.entropy(ds.did(*(ds.Policy.from_logits(x) for x in (logits / tau, logits)))),
    "ex12": displaced,
    "ex13": ds.mutual_information,
    "ex16": lambda chosen, rejected: ds.fisher_information(pair_problem(chosen, rejected)),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_reference_agrees_with_the_library(name):
    exercise, rng = FUNCTIONS[name], np.random.default_rng(7)
    extremes = [] if name == "ex16" else exercise.extremes.values()  # the library asks for full support there
    for inputs in [*(exercise.draw(rng) for _ in range(30)), *extremes]:
        expected, got = LIBRARY[name](*inputs.values()), exercise.reference(*inputs.values())
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=0.0 if name == "ex06" else 1e-12)


def test_the_limits_are_those_of_the_optimal_policy():
    rng, optimal = np.random.default_rng(3), FUNCTIONS["ex03"].reference
    for inputs in (FUNCTIONS["ex04"].draw(rng) for _ in range(20)):
        cold, hot = FUNCTIONS["ex04"].reference(**inputs)
        np.testing.assert_allclose(optimal(**inputs, beta=1e-3), cold, atol=1e-12)
        np.testing.assert_allclose(optimal(**inputs, beta=1e13), hot, atol=1e-12)


def test_simpos_policy_is_where_the_solver_ends():
    rng = np.random.default_rng(3)
    for _ in range(3):
        inputs = FUNCTIONS["ex10"].draw(rng)
        there = ds.Problem.from_policies(inputs["reference"], inputs["target"])
        solution = ds.solve(there, ds.objective("simpo", beta=inputs["beta"], gamma=0.0))
        np.testing.assert_allclose(FUNCTIONS["ex10"].reference(**inputs), solution.policy.probs, atol=1e-9)


def test_the_moving_margin_is_alpha_dpos():
    exercise, rng = FUNCTIONS["ex14"], np.random.default_rng(3)
    for _ in range(5):
        inputs = exercise.draw(rng)
        logs, settings = list(inputs.values())[:4], dict(list(inputs.items())[4:])
        expected = registered("alpha_dpo", *logs, **settings, normalise=False, length_normalise=False)
        got = exercise.observe(exercise.reference, inputs)
        np.testing.assert_allclose(list(got.values()), expected, rtol=1e-12)


def test_the_step_zero_checks_tell_each_loss():
    expected = {
        "right": (True, True),
        "flipped_sign": (True, False),
        "beta_twice": (True, False),
        "lost_reference": (False, False),
        "wrong_log_base": (False, False),
        "detached_margin": (True, False),
    }
    rng, seen = np.random.default_rng(0), set()
    for inputs in (FUNCTIONS["ex15"].draw(rng) for _ in range(60)):
        name = inputs["loss"].__name__
        seen.add(name)
        assert FUNCTIONS["ex15"].reference(**inputs) == expected[name], inputs
    assert seen == set(expected)


# --- wrong answers ----------------------------------------------------------------------------------------


def test_every_exercise_has_wrong_answers():
    assert all(sum(name == other for other, _, _ in WRONG) >= 2 for name in FUNCTIONS)


@pytest.mark.parametrize(("name", "body", "words"), WRONG)
def test_a_wrong_answer_fails_with_a_helpful_line(name, body, words, tmp_path):
    found = examine(written(tmp_path, filled(name, body)), name, 60.0)
    assert found["status"] == "wrong", found
    assert words in (found["slip"] or found["sentence"]), found
    assert found["where"]
    assert list(found["input"]) == list(FUNCTIONS[name].draw(np.random.default_rng(0)))
    assert found["expected"] != found["got"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_slip_is_a_mistake_and_no_two_are_the_same(name):
    exercise, rng = FUNCTIONS[name], np.random.default_rng(0)
    cases = [*(exercise.draw(rng) for _ in range(40)), *exercise.extremes.values()]

    def signature(function):
        with np.errstate(all="ignore"):
            return [repr(exercise.observe(function, inputs)) for inputs in cases]

    signatures = [signature(slip.function) for slip in exercise.slips]
    assert signature(exercise.reference) not in signatures
    assert len({str(one) for one in signatures}) == len(signatures)


@pytest.mark.parametrize("name", QUIZZES)
def test_a_wrong_choice_is_named_and_the_answer_is_not(name, tmp_path):
    quiz = QUIZZES[name]
    for question, answer in quiz.answers.items():
        other = next(choice for choice in quiz.choices[question] if choice != answer)
        found = examine(written(tmp_path, answered(name, {**quiz.answers, question: other})), name, 10.0)
        assert found["status"] == "wrong"
        assert found["sentence"].startswith(f"{question} is not “{other}”. {quiz.looks[question]}")
        assert f"{len(quiz.answers) - 1} of {len(quiz.answers)} are right" in found["sentence"]
        assert answer not in quiz.looks[question]


def test_a_choice_that_is_none_is_told(tmp_path):
    found = examine(written(tmp_path, answered("ex18", {"B": "no mistakes"})), "ex18", 10.0)
    assert "B: 'no mistakes' is none of the choices, which are: no mistake," in found["sentence"]


# --- holes, exceptions, loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_a_hole_that_is_left_is_told_politely(name):
    found = examine(FILES[name], name, 60.0)
    assert found["status"] == "unfinished"
    assert re.search(r"There is still a hole in \w+\.|are not answered yet: ", found["sentence"])


def test_what_is_answered_so_far_is_told(tmp_path):
    found = examine(written(tmp_path, answered("ex18", {"A": CURVES["A"]})), "ex18", 10.0)
    assert found["status"] == "unfinished"
    assert found["sentence"].startswith("9 are not answered yet: B, C")
    assert found["sentence"].endswith("The other 1 are right.")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("...", "wrong", "Your function returns None: is there a return?"),
        ("return ...", "unfinished", "There is still a hole in log_softmax."),
        ("return logits[:, None]", "wrong", "an array of shape (2, 1); expected is an array of shape (2,)."),
        ("return float(logits.sum())", "wrong", "Your result is a single number; expected is an array of shape (2,)."),
        ("return logits * np.nan", "wrong", "nan comes of 0 · log 0"),
        ("return logits / 0.0", "wrong", "An infinite number comes of exp above 709"),
        ("return logits + 0j", "wrong", "complex numbers"),
        ("return 'done'", "wrong", "Your result is of type str; numbers are expected."),
        ("return logits > 0", "wrong", "Your result is of type bool; numbers are expected."),
        ("return [1.0, [2.0]]", "wrong", "a list of parts of different lengths"),
        ("x = logits - logits.max()\nreturn (x - np.log(np.exp(x).sum())).astype('float32')", "wrong", "float32"),
        ("logits -= logits.max()\nreturn logits - np.log(np.exp(logits).sum())", "wrong", "changes its argument"),
        ("return 1 / len([])", "stopped", "ZeroDivisionError: division by zero"),
        ("exit()", "stopped", "leave out exit() and quit()"),
        ("raise TypeError('mine')", "stopped", "TypeError: mine"),
        ("return log_softmax(logits)", "stopped", "RecursionError"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_result_is_said(body, status, words, tmp_path):
    found = examine(written(tmp_path, filled("ex01", body)), "ex01", 10.0)
    assert (found["status"], words in found["sentence"]) == (status, True), found
    if status == "stopped":
        [line] = [n for n, text in enumerate(filled("ex01", body).splitlines(), 1) if text.strip() == body]
        assert found["line"] == [line, body]


def test_lists_and_integers_are_numbers_too(tmp_path):
    body = "x = logits - logits.max()\nreturn list(x - np.log(np.exp(x).sum()))"
    assert examine(written(tmp_path, filled("ex01", body)), "ex01", 10.0)["status"] == "right"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("# exercise: ex02\nx = 1 +\n", "SyntaxError: invalid syntax"),
        ("# exercise: ex02\nimport numpyy\n", "ModuleNotFoundError: No module named 'numpyy'"),
        ("# exercise: ex02\ndef KL(p, q): pass\n", "There is no function kl in it."),
        ("# exercise: ex02\ndef kl(p): pass\n", "kl must take 2 arguments: p, q."),
    ],
)
def test_a_file_that_cannot_be_used_says_why(source, words, tmp_path):
    found = examine(written(tmp_path, source), "ex02", 10.0)
    assert found["status"] == "stopped"
    assert words in found["sentence"]


def test_what_the_student_prints_at_the_failing_input_is_shown(tmp_path):
    found = examine(written(tmp_path, filled("ex01", "print('max', logits.max())\nreturn logits")), "ex01", 10.0)
    assert re.fullmatch(r"max -?[\d.]+\n", found["printed"])


def test_what_is_printed_without_end_is_cut(tmp_path):
    found = examine(written(tmp_path, filled("ex01", "print('x' * 10**6)\nreturn logits")), "ex01", 10.0)
    assert len(found["printed"]) == 2000


# --- in a process of its own ------------------------------------------------------------------------------


def test_a_check_is_right_whatever_the_files_name_and_place(run, here):
    (here / "my work").mkdir()
    source = FILES["ex02"].read_text("utf-8")
    path = written(here / "my work", source[: source.index("\ndef ")] + "\n" + solution("ex02") + "\n", "räsult 1.txt")
    code, out, err = run("teach", "check", path)
    assert (code, err) == (0, "")
    assert out == "ex02, KL divergence with zero probabilities\n\nYou are right: 200 random inputs, 6 extremes.\n"


def test_a_wrong_answer_is_shown_with_its_input_and_a_hint(run, here):
    written(here, filled("ex02", "return np.sum(p * np.log(p / q))"), "a.py")
    code, out, _ = run("teach", "check", "a.py")
    assert code == 1
    assert out.splitlines()[2:] == [
        "Not right yet. It fails at the extreme input “p excludes a response”. 0 · log 0 is nan in floating",
        "point, and 0 in information theory: leave responses with p = 0 out of the sum.",
        "",
        "  p         [0.5, 0.5, 0]",
        "  q         [0.25, 0.25, 0.5]",
        "  expected  0.6931471806",
        "  yours     nan",
        "",
        "A hint: didsim teach hint ex02",
    ]


def test_a_mistake_of_the_student_shows_their_line_and_no_traceback(run, here):
    written(here, filled("ex02", "r = p / q\nreturn undefined(r)"), "a.py")
    code, out, err = run("teach", "check", "a.py", "--seconds", 5)
    assert code == 1
    assert "Your file stops at line 19: return undefined(r)\nNameError: name 'undefined' is not defined" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("while True: pass", "It was at line 18: while True: pass"),
        ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", ""),
    ],
)
def test_a_loop_without_an_end_is_ended(body, line, tmp_path):
    started = time.monotonic()
    outcome = check_file(written(tmp_path, filled("ex02", body)), seconds=0.3)
    assert outcome.status == "late"
    assert "did not end within 0.3 s" in outcome.text
    assert line in outcome.text
    assert time.monotonic() - started < START_UP / 2


def test_code_that_ends_python_is_told(tmp_path):
    outcome = check_file(written(tmp_path, filled("ex02", "import os\nos._exit(0)")))
    assert (outcome.status, "ended Python itself (exit code 0)" in outcome.text) == ("stopped", True)


def test_modules_beside_the_file_do_not_take_the_place_of_libraries(run, here):
    written(here, "raise RuntimeError('the wrong numpy')", "numpy.py")
    written(here, filled("ex06", "return beta / (1 + np.exp(beta * margin))"), "a.py")
    assert run("teach", "check", "a.py").code == 0


def test_json_is_one_document_and_quiet_says_nothing(run, here):
    written(here, filled("ex01", "print('noise')\nreturn logits * np.nan"), "a.py")
    written(here, filled("ex06", "print('noise')\nreturn beta / (1 + np.exp(beta * margin))"), "b.py")
    code, out, err = run("teach", "check", "a.py", "b.py", "--json", "-q")
    assert (code, err) == (1, "")
    first, second = json.loads(out)["checks"]
    assert (first["status"], first["exercise"], first["got"]) == ("wrong", "ex01", "[nan, nan]")
    assert (second["status"], second["random"], second["extremes"]) == ("right", 200, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        ("x = 1\n", "does not say which exercise it is"),
        ("# exercise: ex99\n", "exercise must be one of ex01 to ex18"),
    ],
)
def test_a_file_that_is_no_exercise_is_bad_data(run, here, content, words):
    if content is not None:
        written(here, content, "a.py")
    code, out, err = run("teach", "check", "a.py")
    assert (code, out, words in err) == (4, "", True)


# --- handing out ------------------------------------------------------------------------------------------


def test_exercises_are_copied_and_never_overwritten(run, here):
    written(here, "my work\n", FILES["ex03"].name)
    (here / FILES["ex04"].name).symlink_to("nowhere")
    code, out, _ = run("teach", "start", "ex03", "ex04", "ex05", "--json")
    document = json.loads(out)
    assert (code, document["written"]) == (0, [FILES["ex05"].name])
    assert document["kept"] == [FILES["ex03"].name, FILES["ex04"].name]
    assert (here / FILES["ex03"].name).read_text("utf-8") == "my work\n"
    assert (here / FILES["ex04"].name).is_symlink()
    assert (here / FILES["ex05"].name).read_bytes() == FILES["ex05"].read_bytes()


def test_starting_says_what_to_do_next(run, here):
    code, out, err = run("teach", "start", "ex03", "-o", "new/folder")
    assert (code, out) == (0, "Wrote new/folder/ex03_optimal_policy.py\n")
    assert err == "Fill in the hole, then: didsim teach check new/folder/ex03_optimal_policy.py\n"
    assert run("teach", "start", "ex03", "-o", "new/folder", "-q").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start"], "Name exercises, or use --all."),
        (["start", "ex01", "--all"], "not both"),
        (["start", "ex19"], "exercise must be one of ex01 to ex18; got 'ex19'"),
        (["hint", "ex0l"], "ex01 to ex18"),
        (["hint", "ex01", "7"], "ex01 has 3 hints; got 7."),
        (["hint", "ex01", "0"], "whole number"),
        (["solution", "zoo"], "exercise must be one of"),
        (["check"], "Missing argument"),
        (["check", "a.py", "--seconds", "0"], "--seconds"),
    ],
)
def test_a_wrong_argument_is_told(run, arguments, words):
    code, out, err = run("teach", *arguments)
    assert (code, out, words in err) == (2, "", True), err


def test_a_folder_that_is_a_file_is_told(run, here):
    written(here, "", "taken")
    assert run("teach", "start", "ex01", "-o", "taken").code == 7


# --- hints and solutions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_do_not_contain_the_solution(name):
    exercise = EXERCISES[name]
    assert len(exercise.hints) >= 2
    if isinstance(exercise, Quiz):
        assert not any(reason in hint for reason in exercise.reasons.values() for hint in exercise.hints)
        return
    statements = ast.parse(solution(name)).body[0].body[1:]
    secrets = [ast.unparse(node.value) for node in ast.walk(ast.Module(statements, [])) if isinstance(node, ast.Return)]
    secrets += [line.strip() for line in solution(name).splitlines()[2:] if len(line.strip()) > 12]
    assert secrets
    assert not any(secret in hint for secret in secrets for hint in exercise.hints)
    file = FILES[name].read_text("utf-8")
    body = [line.strip() for line in solution(name).splitlines()[2:] if "=" in line and len(line.strip()) > 12]
    assert not any(line in file for line in body)


def test_hints_come_one_at_a_time(run):
    hints = EXERCISES["ex01"].hints
    first, last = run("teach", "hint", "ex01"), run("teach", "hint", "ex01", 3)
    assert " ".join(first.stdout.split()) == f"Hint 1 of 3: {hints[0]} More: didsim teach hint ex01 2"
    assert last.stdout.endswith("More: didsim teach solution ex01\n")
    assert json.loads(run("teach", "hint", "1", 2, "--json").stdout)["hint"] == hints[1]


def test_a_solution_is_the_reference(run):
    assert run("teach", "solution", "ex01").stdout.startswith("def log_softmax(logits):\n")
    assert "A: wrong log base. The loss begins at 1" in run("teach", "solution", "ex18").stdout


# --- the zoo ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo():
    return curves()


@pytest.mark.slow
def test_the_zoo_is_drawn_and_written_beside_the_exercise(run, here):
    code, out, _ = run("teach", "start", "zoo")
    assert code == 0
    assert out.splitlines()[0] == "Wrote ex17_zoo_curves.py"
    frame = pd.read_csv("zoo.csv")
    assert sorted(frame["curve"].unique()) == list("ABCDEFGHIJ")
    assert list(frame.columns) == ["curve", "step", "loss", "js_target", "margin"]
    svg = Path("zoo.svg").read_text("utf-8")
    assert "<desc>" in svg
    assert not any(name in svg for name in MISTAKES)
    assert Path("zoo.png").read_bytes().startswith(b"\x89PNG")
    assert "no mistake" not in Path("zoo.csv").read_text("utf-8")


def ending(path: pd.Series) -> str:
    """Describe a distance over the steps in the words of the quiz."""
    start, least, end = path.iloc[0], path.min(), path.iloc[-1]
    if path.max() - least < 1e-9:
        return "stays"
    if end > start and path.idxmin() == path.index[0]:
        return "rises"
    if end > 1.5 * least and end > 1e-3:
        return "falls, then rises"
    return "falls to 0" if end < 1e-3 * start else "falls and stays above 0"


def course(path: pd.Series) -> str:
    """Describe a loss over the steps in the words of the quiz."""
    if path.min() < 0:
        return "falls below 0"
    if abs(path.iloc[0] - math.log(2.0)) > 0.01:
        return "begins elsewhere and stays above 0"
    return "stays at log 2" if np.ptp(path) < 1e-9 else "begins at log 2 and falls"


@pytest.mark.parametrize(("question", "answer"), ZOO_CURVES.answers.items())
def test_the_answers_about_the_curves_are_what_training_shows(zoo, question, answer):
    name, _, curve = question.partition(": ")
    path = zoo[zoo["run"] == name].set_index("step")["js_target" if curve == "distance" else "loss"]
    assert (ending if curve == "distance" else course)(path) == answer


def test_every_mistake_has_a_curve_of_its_own(zoo):
    paths = [group[["loss", "js_target", "margin"]].to_numpy() for _, group in zoo.groupby("run")]
    assert set(CURVES.values()) == set(MISTAKES) == set(LOSSES)
    apart = [np.abs(a - b).max() for i, a in enumerate(paths) for b in paths[:i]]
    assert len(apart) == 45
    assert min(apart) > 0.05


def test_the_ends_of_the_zoo_are_those_that_its_reasons_name(zoo):
    there, last = problem(), zoo[zoo["step"] == STEPS].set_index("run")
    flipped = zoo.pivot(index="step", columns="run", values="loss")
    np.testing.assert_allclose(flipped["flipped margin"], flipped["no mistake"], atol=1e-5)
    np.testing.assert_allclose(
        flipped["wrong log base"].iloc[0] / flipped["no mistake"].iloc[0], 1 / math.log(2.0), rtol=1e-4
    )
    twice = ds.solve(there, ds.objective("dpo", beta=BETA**2)).policy
    lost = ds.did(there.target, there.reference)
    assert last.loc["β twice", "js_target"] == pytest.approx(ds.js(there.target, twice), rel=0.1)
    assert last.loc["lost reference", "js_target"] == pytest.approx(ds.js(there.target, lost), rel=0.1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flipped margin", "sign of the margin is flipped"),
        ("negated loss", "sign of the loss is flipped"),
        ("β twice", "β"),
        ("lost reference", "reference is missing"),
        ("wrong log base", "1.443 times"),
    ],
)
def test_the_doctor_names_the_same_mistakes(name, words):
    def dpo(pairs, beta=BETA):
        return LOSSES[name](pairs)

    said = [finding.sentence for finding in check_loss(dpo).findings]
    assert any(words in sentence for sentence in said), said
