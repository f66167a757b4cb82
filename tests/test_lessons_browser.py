"""The pages as a browser shows them: without network, by keyboard, without faults for people who do not see them."""

import json
import shutil
import time
from importlib.resources import files

import pytest

from didsim.lessons import LESSONS
from didsim.lessons.pages import course

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402 - after the look whether it is there
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with chromedriver here"),
]

AXE = files("axe_core_python").joinpath("axe.min.js")

PAGES = [f"lesson{lesson.number}.html" for lesson in LESSONS.values()]
ALL_PAGES = ["index.html", *PAGES, *(name.replace(".html", "-notes.html") for name in PAGES)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole course on disk."""
    folder = tmp_path_factory.mktemp("site")
    for name, page in course(LESSONS):
        (folder / name).write_text(page, encoding="utf-8")
    return folder


def start(*arguments):
    """Start a browser that knows no network."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


@pytest.fixture(scope="module")
def browser():
    driver = start("--window-size=1280,900")
    yield driver
    driver.quit()


def visit(browser, site, name, fragment=""):
    """Load a page anew and forget what was logged before."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get((site / name).as_uri() + fragment)


def requests(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if url != "about:blank"]


def numbers(browser, step):
    return [e.text for e in browser.find_elements(By.CSS_SELECTOR, f"#{step} [data-number]")]


@pytest.mark.parametrize("name", ALL_PAGES)
def test_a_page_asks_for_nothing_but_itself_and_complains_of_nothing(browser, site, name):
    visit(browser, site, name)
    time.sleep(0.2)
    assert requests(browser) == [(site / name).as_uri()]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ALL_PAGES)
def test_a_page_has_no_fault_that_axe_knows(browser, site, name, dark):
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    visit(browser, site, name)
    browser.execute_script("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    browser.execute_script(AXE.read_text("utf-8"))
    result = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    found = [(v["id"], [node["html"][:160] for node in v["nodes"]][:3]) for v in result["violations"]]
    assert found == []
    assert len(result["passes"]) > 10


@pytest.mark.parametrize("name", ALL_PAGES)
def test_nothing_is_wider_than_a_phone(browser, site, name):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    visit(browser, site, name)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 390


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=list(LESSONS))
def test_a_whole_lesson_can_be_gone_through_by_keyboard(browser, site, lesson):
    visit(browser, site, f"lesson{lesson.number}.html")
    keyboard = webdriver.ActionChains(browser)
    moved, answered, folds = set(), set(), 0
    seen = {step.name: numbers(browser, step.name) for step in lesson.steps}
    for _ in range(40 * len(lesson.steps)):
        keyboard.send_keys(Keys.TAB).perform()
        here = browser.switch_to.active_element
        tag, kind = here.tag_name, here.get_attribute("type")
        if tag == "body":
            break
        step = browser.execute_script("return arguments[0].closest('section')?.id", here)
        if kind == "range":
            where = here.get_attribute("value")
            key = Keys.ARROW_RIGHT if where != here.get_attribute("max") else Keys.ARROW_LEFT
            keyboard.send_keys(key * 3).perform()
            assert here.get_attribute("value") != where
            assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", here) != "none"
            moved.add(step)
        elif kind == "radio":
            right = next(s.check.answer for s in lesson.steps if s.name == step)
            for _ in range(right):
                keyboard.send_keys(Keys.ARROW_DOWN).perform()
            if right == 0:
                keyboard.send_keys(Keys.SPACE).perform()
            assert browser.find_element(By.CSS_SELECTOR, f"#{step} .reply").text.startswith("Yes.")
            answered.add(step)
        elif tag == "summary":
            keyboard.send_keys(Keys.ENTER).perform()
            folds += 1
    names = {step.name for step in lesson.steps}
    assert moved == answered == names
    assert folds == 2 * len(names)
    assert all(numbers(browser, name) != seen[name] for name in names)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=list(LESSONS))
def test_the_address_keeps_the_state(browser, site, lesson):
    visit(browser, site, f"lesson{lesson.number}.html")
    for step in lesson.steps:
        value = next(v for v in step.control.presets.values() if v != step.control.start)
        button = browser.find_element(By.CSS_SELECTOR, f'#{step.name} button[data-value="{value!r}"]')
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
    shown = {step.name: numbers(browser, step.name) for step in lesson.steps}
    address = browser.current_url
    assert all(f"{step.name}=" in address for step in lesson.steps)
    visit(browser, site, f"lesson{lesson.number}.html", "#" + address.partition("#")[2])
    assert {step.name: numbers(browser, step.name) for step in lesson.steps} == shown


def test_an_address_that_says_nothing_sensible_changes_nothing(browser, site):
    visit(browser, site, "lesson1.html")
    first = numbers(browser, "temperature")
    visit(browser, site, "lesson1.html", "#temperature=hot&nothing=1&=")
    assert numbers(browser, "temperature") == first
    assert browser.get_log("browser") == []


def test_a_page_is_complete_without_its_script(site):
    driver = start("--blink-settings=scriptEnabled=false")
    try:
        for lesson in LESSONS.values():
            driver.get((site / f"lesson{lesson.number}.html").as_uri())
            for step in lesson.steps:
                section = driver.find_element(By.ID, step.name)
                assert section.find_element(By.CSS_SELECTOR, "svg path[data-mark]").get_attribute("d")
                assert not section.find_element(By.CSS_SELECTOR, ".control").is_displayed()
                assert all(number for number in numbers(driver, step.name))
    finally:
        driver.quit()


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=list(LESSONS))
def test_a_slider_redraws_its_chart(browser, site, lesson):
    visit(browser, site, f"lesson{lesson.number}.html")
    for step in lesson.steps:
        section = browser.find_element(By.ID, step.name)
        outlines = "return [...arguments[0].querySelectorAll('path[data-mark]')].map((p) => p.getAttribute('d')).join()"
        before = browser.execute_script(outlines, section)
        browser.execute_script(
            "const slider = arguments[0].querySelector('input[type=range]');"
            "slider.value = slider.value === slider.max ? slider.min : slider.max;"
            "slider.dispatchEvent(new Event('input'))",
            section,
        )
        assert browser.execute_script(outlines, section) != before
