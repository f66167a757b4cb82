"""The labs: their numbers against independent ones, the command that opens them, and what it asks of the network."""

import importlib
import json
import math
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ALL_COMMANDS

import didsim as ds
from didsim.lessons import LESSONS
from didsim.lessons.labs import LABS

marimo = pytest.importorskip("marimo", reason="the labs need the extra: pip install 'didsim[teach]'")

from didsim.lessons.labs import serving, tools  # noqa: E402 - after the look whether marimo is there

pytestmark = pytest.mark.slow


def play(name, **values):
    """Run a lab with its controls where they are wanted; return what its cells define.

    Overriding one name of a cell replaces the cell: its other controls are kept where they are.
    """
    app = importlib.import_module(f"didsim.lessons.labs.{LABS[name].path.stem}").app
    _, opening = app.run()
    controls = {
        key: value for key, value in opening.items() if isinstance(value, marimo.ui.slider | marimo.ui.dropdown)
    }
    assert set(values) <= set(controls)
    outputs, found = app.run(defs={key: moved(control, values.get(key)) for key, control in controls.items()})
    text = " ".join(str(output.text) for output in outputs if isinstance(output, marimo.Html))
    return {**found, "page": text}


def moved(control, value):
    """Return a control like another at a value: at the nearest one that a slider has, or the words of a choice."""
    if value is None:
        return control
    if isinstance(control, marimo.ui.dropdown):
        return marimo.ui.dropdown(control.options, value=value)
    nearest = min(control.steps, key=lambda step: abs(step - value))
    assert nearest == pytest.approx(value, rel=0.03)
    return marimo.ui.slider(steps=control.steps, value=nearest)


def softmax(logits):
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return weights / weights.sum()


def entropy(p):
    return -sum(x * math.log(x) for x in p if x)


def js(p, q):
    middle = (p + q) / 2
    return sum(0.5 * float(np.sum(a * np.log(a / middle))) for a in (p, q))


def logits(size):
    return np.random.default_rng(42).standard_normal(size)


# --- the numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tau", "beta", "classes"), [(4.0, 1.0, 32), (0.5, 0.3, 8), (8.0, 3.0, 2)])
def test_did_the_construction(tau, beta, classes):
    found = play("did", tau=tau, beta=beta, classes=classes)
    tau, beta = found["tau"].value, found["beta"].value
    theta = logits(classes)
    ranges = {"reference": 1.0, "target": 1 / tau, "rejected": abs(1 + beta * (1 - 1 / tau))}
    assert found["span"] == pytest.approx({name: factor * np.ptp(theta) for name, factor in ranges.items()})
    assert found["exponent"] == pytest.approx(beta)
    q = softmax(theta * (1 / tau - 1))
    assert found["information"] == pytest.approx(entropy(q))
    assert found["favourite"] == pytest.approx(q.max())
    widest = beta * abs(1 / tau - 1) * np.ptp(theta)
    assert found["surest"] == pytest.approx(1 / (1 + math.exp(-widest)))
    np.testing.assert_allclose(found["flattened"].probs, softmax(-theta))


def test_did_without_an_update_there_is_nothing_to_learn():
    found = play("did", tau=1.0)
    assert found["tau"].value == 1.0
    assert found["exponent"] is None
    assert found["information"] == pytest.approx(math.log(32))
    assert found["surest"] == pytest.approx(0.5)
    assert "nothing moves" in found["page"]


@pytest.mark.parametrize(("tau", "kappa"), [(4.0, 0.6), (4.0, 1.0), (0.5, 0.0)])
def test_did_another_reward_recovers_one_target_and_dpo_alone_both(tau, kappa):
    found = play("did", tau=tau, kappa=kappa)
    tau, kappa = found["tau"].value, found["kappa"].value
    alpha = 1.0 if kappa == 1 else (1 - tau) / (1 - kappa * tau)
    assert found["scale"](kappa) == pytest.approx(alpha)
    assert found["first"] == pytest.approx(0.0, abs=1e-12)
    theta, other = logits(32), np.random.default_rng(7).normal(size=32)
    assert found["second"] == pytest.approx(
        js(softmax(other), softmax(kappa * theta + (other - theta) / alpha)), abs=1e-12
    )
    assert (found["second"] < 1e-12) == (kappa == 1)


def test_did_where_no_reward_of_the_family_recovers_the_target_it_says_so():
    found = play("did", tau=4.0, kappa=0.1)
    assert found["scale"](0.1) is None
    assert "no positive α" in found["page"]


ENDS = {
    "DPO": lambda world: world.target,
    "DPO with β = 2": lambda world: ds.dpo_optimum(world, beta=2.0),
    "SimPO": lambda world: train_long(world, ds.objective("simpo", beta=2.0, gamma=0.5)),
    "Cal-DPO": lambda world: train_long(world, ds.objective("cal_dpo", beta=0.1), 4000),
}


def train_long(world, loss, steps=2000):
    settings = {"mode": "population", "optimiser": "adam", "schedule": "cosine", "learning_rate": 0.03}
    return ds.train(world, loss, steps=steps, dtype="float64", **settings).policy


@pytest.mark.parametrize("name", ENDS)
def test_convergence_the_dashed_line_is_where_long_training_ends(name):
    found = play("convergence", objective=name)
    world = ds.Problem.from_temperature(num_classes=16, tau=4.0, seed=42)
    assert found["bias"] == pytest.approx(float(ds.js(world.target, ENDS[name](world))), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(("rate", "steps", "batch"), [(0.02, 200, 64), (0.05, 50, 1024)])
def test_convergence_the_curves_are_of_the_run_that_the_sliders_ask_for(rate, steps, batch):
    found = play("convergence", objective="Cal-DPO", rate=rate, steps=steps, batch=batch)
    rate = found["rate"].value
    world, loss = ds.Problem.from_temperature(num_classes=16, tau=4.0, seed=42), ds.objective("cal_dpo", beta=0.1)
    run = ds.train(world, loss, mode="population", steps=steps, learning_rate=rate, dtype="float64")
    assert found["at"][-1] == steps
    assert found["to_target"][-1] == pytest.approx(js(world.target.probs, run.policy.probs), rel=1e-6, abs=1e-15)
    assert found["to_end"][-1] == pytest.approx(js(found["end"].probs, run.policy.probs), rel=1e-6, abs=1e-15)
    drawn = ds.train(world, loss, steps=steps, learning_rate=rate, dtype="float64", batch_size=batch, seed=1)
    assert found["drawn"][-1] == pytest.approx(js(found["end"].probs, drawn.policy.probs), rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "rate", "steps", "words"),
    [
        ("SimPO", 0.001, 25, "on its way"),
        ("SimPO", 0.05, 400, "biased"),
        ("DPO", 0.001, 25, "on its way"),
    ],
)
def test_convergence_it_says_whether_a_run_is_biased_or_slow(objective, rate, steps, words):
    assert words in play("convergence", objective=objective, rate=rate, steps=steps)["verdict"]


@pytest.mark.parametrize(
    ("tau", "fails"), [(0.4, False), (0.6, True), (0.8, True), (2.0, False)], ids=lambda value: str(value)
)
def test_entropy_claim_41_fails_between_one_half_and_one(tau, fails):
    found = play("entropy", tau=tau)
    theta, tau = logits(32), found["tau"].value
    assert found["start"] == pytest.approx(entropy(softmax(theta)))
    assert found["learnt"] == pytest.approx(entropy(softmax(theta * (1 / tau - 1))))
    assert found["fails"] == fails
    assert ("Claim 4.1 fails" in found["page"]) == fails


@pytest.mark.parametrize(("claim", "tau"), [("did.claim-4.1-reinforce", 0.8), ("did.claim-4.1-smooth", 4.0)])
def test_entropy_the_ledgers_counterexamples_are_counterexamples(claim, tau):
    found = play("entropy", reference=f"counterexample of {claim}", tau=tau)
    shares = np.asarray(ds.CLAIMS[claim].counterexample["reference"])
    tilted = shares ** (1 / found["tau"].value - 1)
    assert found["learnt"] == pytest.approx(entropy(tilted / tilted.sum()))
    assert found["start"] == pytest.approx(entropy(shares))
    assert found["fails"]


@pytest.mark.parametrize(("spread", "size"), [(1.0, 3), (0.1, 32), (1.91, 2)])
def test_entropy_how_often_the_claim_fails(spread, size):
    found = play("entropy", spread=spread, size=size)
    draws = found["spread"].value * np.random.default_rng(0).normal(size=(400, size))
    for tau, share in list(zip(found["taus"], found["share"], strict=True))[::6]:
        gaps = [entropy(softmax(row * (1 / tau - 1))) - entropy(softmax(row)) for row in draws]
        assert share == pytest.approx(np.mean([gap >= 0 if tau < 1 else gap <= 0 for gap in gaps]), abs=1 / 400)
    if size == 2:  # then the second half of the claim is a theorem
        assert np.all(found["share"][found["taus"] > 1] == 0)


@pytest.mark.parametrize(("tau", "lam"), [(0.4, 0.0), (2.0, 0.0), (2.0, 1.0), (0.4, 0.5)])
def test_entropy_displacement_follows_where_chosen_responses_lie(tau, lam):
    found = play("entropy", tau=tau, lam=lam)
    theta, tau = logits(8), found["tau"].value
    reference, target = softmax(theta), softmax(theta / tau)
    rejected = softmax(theta * (2 - 1 / tau))
    chosen = (1 - lam) * reference + lam * target
    moved = np.log(found["history"].policy.probs) - np.log(reference)
    assert found["chosen"][-1] == pytest.approx(chosen @ moved)
    assert found["rejected"][-1] == pytest.approx(rejected @ moved)
    assert found["sign"] == pytest.approx((chosen - reference) @ (chosen - rejected), abs=1e-15)
    assert found["excess"] == pytest.approx(entropy(softmax(theta * (1 / tau - 1))) - entropy(reference))
    if lam == 0:
        assert np.all(np.diff(found["chosen"]) <= 1e-12)
    assert ("falls at first" in found["page"]) == (found["sign"] < -1e-12)
    assert ("rises at first" in found["page"]) == (found["sign"] > 1e-12)


def zoo_gradient(name, beta, theta, reference, w, l):  # noqa: E741 - the papers' l
    """Return the gradient of the expected loss in the logits, by hand, from its slope in the margin of each pair."""
    h = theta - (0 if name == "lost reference" else np.log(reference))
    m = h[:, None] - h[None, :]
    scale = beta**2 if name == "β twice" else beta
    slope = -scale / (1 + np.exp(scale * m))
    if name == "flipped margin":
        slope = scale / (1 + np.exp(-scale * m))
    pull = np.outer(w, l) * slope
    return pull.sum(1) - pull.sum(0)


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize("name", ["flipped margin", "β twice", "lost reference"])
def test_failures_the_zoo_trains_as_gradient_descent_by_hand(name, beta):
    found = play("failure-modes", mistake=name, beta=beta)
    world = found["problem"]
    reference, target = world.reference.probs, world.target.probs
    rejected = reference * (reference / target) ** beta
    theta = np.log(reference)
    for _ in range(50):
        theta = theta - 4.0 * zoo_gradient(name, beta, theta, reference, reference, rejected / rejected.sum())
    assert found["runs"][name].metrics["js_target"][-1] == pytest.approx(js(target, softmax(theta)), rel=1e-9)
    healthy, wrong = (found["runs"][run].metrics for run in ("no mistake", name))
    assert healthy["js_target"][-1] < healthy["js_target"][0] / 10
    if (name, beta) == ("β twice", 1.0):
        np.testing.assert_allclose(wrong["js_target"], healthy["js_target"], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "start"), [("wrong log base", 1.0), ("negated loss", -math.log(2)), ("moving reference", math.log(2))]
)
def test_failures_the_reported_loss_begins_where_it_must(name, start):
    found = play("failure-modes", mistake=name, beta=0.3)
    assert found["runs"][name].metrics["loss"][0] == pytest.approx(start)
    assert f"from {tools.short(start)}" in found["page"]


@pytest.mark.parametrize(("score", "longest"), [("DPO: sum", 5), ("DPO: mean", 3), ("sum, no reference", 2)])
def test_failures_sums_and_means_end_at_other_lengths(score, longest):
    found = play("failure-modes", score=score, longest=longest)
    world = found["sequences"]
    long = world.space.lengths
    assert long.max() == longest
    solution = ds.solve(world, found["score"].value)
    assert found["gap"] == pytest.approx(js(world.target.probs, solution.policy.probs), abs=1e-9)
    assert (found["gap"] < 1e-9) == (score == "DPO: sum")
    assert sum(found["shares"]["end"]) == pytest.approx(1.0)
    assert found["shares"]["target"][-1] == pytest.approx(world.target.probs[long == longest].sum())


@pytest.mark.parametrize("wrong", [0.0, 12.0, 30.0])
def test_failures_a_wrong_margin_climbs_at_a_steady_pace(wrong):
    found = play("failure-modes", wrong=wrong)
    margin, path = -wrong, []
    for step in range(101):
        first = 1 / (1 + math.exp(-margin))
        if step % 4 == 0:
            path.append(js(np.array([0.8, 0.2]), np.array([first, 1 - first])))
        # pairs (1, 2) with 0.5·0.8 and (2, 1) with 0.5·0.2; their slopes are −σ(−m) and σ(m); each logit moves
        margin -= 2 * 1.0 * (0.1 * first - 0.4 * (1 - first))
    np.testing.assert_allclose(found["distances"], path, rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize(("pairs", "seed"), [(2000.0, 1), (200_000.0, 7)])
def test_failures_the_best_policy_for_drawn_pairs_has_no_gradient(pairs, seed):
    found = play("failure-modes", pairs=pairs, seed=seed)
    world, data = found["population"], found["data"]
    counts = np.zeros((8, 8))
    np.add.at(counts, (data.chosen, data.rejected), 1)
    h = found["best"].policy.log_probs - world.reference.log_probs
    pull = counts / (1 + np.exp(h[:, None] - h[None, :]))
    assert np.abs(pull.sum(1) - pull.sum(0)).max() < 1e-6 * pairs
    assert found["found"] == pytest.approx(float(ds.kl(world.target, found["best"].policy)))
    assert found["expected"] * found["pairs"].value == pytest.approx(ds.predicted_error(world, 1).kl)
    assert 0.1 < found["found"] / found["expected"] < 4  # χ² with seven degrees of freedom, halved


# --- what every lab must be -------------------------------------------------------------------------------


@pytest.mark.parametrize("lab", LABS.values(), ids=list(LABS))
class TestEveryLab:
    def test_it_belongs_to_its_lesson(self, lab):
        assert LESSONS[lab.name].number == lab.lesson
        assert f"The lab of lesson {lab.lesson}," in lab.path.read_text("utf-8")

    def test_marimo_finds_no_fault(self, lab):
        done = subprocess.run(
            [sys.executable, "-m", "marimo", "check", "--strict", lab.path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_each_figure_can_be_told_to_those_who_do_not_see_it(self, lab):
        page = play(lab.name)["page"]
        assert page.count('role="img"') == page.count("<desc>") >= 3
        assert "<desc></desc>" not in page

    def test_it_is_short(self, lab):
        assert len(lab.path.read_text("utf-8").splitlines()) <= 320


def test_a_claim_is_named_with_its_verdict():
    assert "didsim verify did.lld" in tools.claims("did.lld").text
    assert ds.CLAIMS["did.lld"].verdict in tools.claims("did.lld").text
    with pytest.raises(KeyError):
        tools.claims("did.nonsense")


# --- the command ------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """What a command would have served."""

    notebook: str
    edit: bool
    port: int | None


@pytest.fixture
def opened(monkeypatch):
    """Nothing is served and no browser opened; what would have been is kept."""
    calls = []

    @contextmanager
    def served(notebook, *, edit, port):
        calls.append(Opened(str(notebook), edit, port))
        yield "http://127.0.0.1:1", subprocess.Popen([sys.executable, "-c", "pass"])

    monkeypatch.setattr(serving, "served", served)
    monkeypatch.setattr("click.launch", lambda address: calls.append(address))
    return calls


EXAMPLES = [shlex.split(example)[1:] for example in ALL_COMMANDS["teach open"].examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=" ".join)
def test_every_example_opens_a_lab(run, opened, example):
    done = run(*example)
    assert done.code == 0, done.stderr
    assert done.stdout == "http://127.0.0.1:1\n"
    assert ("http://127.0.0.1:1" in opened) == ("--no-browser" not in example)
    assert opened[0].edit == ("--edit" in example)


def test_it_prints_one_document(run, opened):
    done = run("teach", "open", "4", "--json", "-q", "--port", "8123")
    document = json.loads(done.stdout)
    assert document["lab"] == "did"
    assert document["file"] == str(LABS["did"].path) == opened[0].notebook
    assert opened[0].port == 8123
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["softmax"], "There is no lab 'softmax'. The labs are did (4)"),
        ([], "Name a lab. The labs are did (4)"),
        (["did", "--force"], "--edit"),
        (["did", "--port", "0"], "from 1 to 65535"),
    ],
)
def test_a_wrong_argument_is_refused(run, opened, arguments, words):
    done = run("teach", "open", *arguments)
    assert (done.code, done.stdout, opened) == (2, "", [])
    assert words in done.stderr


def test_an_edited_copy_is_never_overwritten_unless_it_is_asked_for(run, opened, here):
    original, copy = LABS["did"].path.read_text("utf-8"), here / "lab4_did.py"
    assert run("teach", "open", "did", "--edit").code == 0
    assert copy.read_text("utf-8") == original
    copy.write_text("mine", "utf-8")
    done = run("teach", "open", "did", "--edit")
    assert (done.code, copy.read_text("utf-8")) == (0, "mine")
    assert "lab4_did.py is here already" in done.stderr
    assert run("teach", "open", "did", "--edit", "--force").code == 0
    assert copy.read_text("utf-8") == original
    assert opened[-2].notebook == "lab4_did.py"


def test_a_directory_in_the_place_of_the_copy_is_refused(run, opened, here):
    (here / "lab4_did.py").mkdir()
    for more in ([], ["--force"]):
        done = run("teach", "open", "did", "--edit", *more)
        assert (done.code, opened) == (7, [])
        assert "lab4_did.py" in done.stderr


def test_without_marimo_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    done = run("teach", "open", "did", "--no-browser")
    assert done.code == 2
    assert done.stderr == "Error: The labs need marimo: pip install 'didsim[teach]'\n"


def test_a_port_in_use_is_refused(run):
    with socket.socket() as taken:
        taken.bind((serving.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("teach", "open", "did", "--no-browser", "--port", port)
    assert done.code == 7
    assert f"Port {port} cannot be used" in done.stderr


def test_the_labs_are_listed(run):
    assert [lab["name"] for lab in json.loads(run("teach", "list", "--json").stdout)["labs"]] == list(LABS)
    assert all(lab.title in run("teach", "list").stdout for lab in LABS.values())


# --- in the browser ---------------------------------------------------------------------------------------

WATCH = """
import os, socket, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["DIDSIM_TEST_LOG"], "a") as log:
            log.write(f"{event} {arguments[1] if event in ('socket.connect', 'socket.sendto') else arguments[0]}\\n")
sys.addaudithook(watch)
"""
"""A sitecustomize.py with which every Python process notes where it connects to."""

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no Chromium with chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = importlib.import_module("selenium.webdriver.chrome.service").Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()


@pytest.fixture
def connections(tmp_path, monkeypatch):
    """Where the server and all its children connect to outside this machine, as a function that tells."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "connections.log"
    log.write_text("")
    monkeypatch.setenv("DIDSIM_TEST_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(ds.__file__).parent.parent}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    here = re.compile(r"127\.0\.0\.1|localhost|getaddrinfo None|socket.connect b?'?/")  # None: to listen
    return lambda: [line for line in log.read_text().splitlines() if not here.search(line)]


def asked(browser):
    """Return the addresses of all requests and web sockets, and empty the log."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    sent += [m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"]
    return [url for url in sent if not url.startswith(("data:", "blob:", "about:", "chrome:"))]


def forget(browser):
    """Leave the page, whose server may have ended, and empty the logs."""
    browser.get("about:blank")
    time.sleep(1)
    asked(browser)
    browser.get_log("browser")


def wait(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


FIGURES = "return [...document.querySelectorAll('svg[role=img]')].map((figure) => figure.outerHTML)"

STEP = """
const knob = [...document.querySelectorAll('marimo-slider')].at(-1).shadowRoot.querySelector('[role=slider]');
const key = knob.getAttribute('aria-valuenow') === knob.getAttribute('aria-valuemax') ? 'ArrowLeft' : 'ArrowRight';
knob.focus();
for (const kind of ['keydown', 'keyup']) knob.dispatchEvent(new KeyboardEvent(kind, {key, code: key, bubbles: true}));
"""
"""A key on the last slider."""


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS.values(), ids=list(LABS))
def test_a_served_lab_draws_anew_and_asks_nobody_else(browser, connections, lab):
    expected = len(re.findall(r"\bfigure\(\s*_draw", lab.path.read_text("utf-8")))
    with serving.served(lab.path) as (address, _):
        forget(browser)
        browser.get(address)
        wait(lambda: len(browser.execute_script(FIGURES)) == expected)
        before = browser.execute_script(FIGURES)
        browser.execute_script(STEP)
        wait(lambda: browser.execute_script(FIGURES) != before)
        urls = asked(browser)
        assert len(urls) > 50
        assert [url for url in urls if url.split("//")[1].split("/")[0] != address.split("//")[1]] == []
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert browser.find_elements("css selector", "marimo-error, .marimo-error, [data-testid=error]") == []
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        )
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert wide <= 390
    assert connections() == []


def test_a_connection_elsewhere_would_be_noted(connections):
    code = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"  # which sends nothing
    subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert connections() == ["socket.connect ('192.0.2.1', 9)"]


@pytest.mark.slow
def test_the_editor_asks_nobody_else_either(browser, connections, here):
    copy = shutil.copy(LABS["did"].path, here)
    with serving.served(Path(copy), edit=True) as (address, _):
        forget(browser)
        browser.get(address)
        wait(lambda: "construction" in browser.find_element("tag name", "body").text)
        time.sleep(3)
        urls = asked(browser)
        assert [url for url in urls if f"//{serving.HOST}:" not in url] == []
    assert connections() == []


@pytest.mark.slow
def test_the_editor_wants_its_token(tmp_path):
    copy = shutil.copy(LABS["did"].path, tmp_path)
    with serving.served(Path(copy), edit=True) as (address, _):
        plain = address.partition("?")[0]
        with urllib.request.urlopen(plain) as answer:
            assert "/auth/login" in answer.url


@pytest.mark.slow
def test_a_server_ends_with_its_block():
    with serving.served(LABS["did"].path) as (_, server):
        assert server.poll() is None
    assert server.poll() is not None
