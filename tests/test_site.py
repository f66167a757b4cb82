"""The documentation site: its code runs, it is complete, and it asks nothing of the network."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_docs import blocks, differing

import didsim
from didsim import CLAIMS, OBJECTIVES
from didsim.lessons import LESSONS
from didsim.objectives import IMPLEMENTATIONS

ROOT = Path(__file__).parent.parent
WRITTEN = [path for path in sorted((ROOT / "docs").rglob("*.md")) if blocks(path.read_text("utf-8"), "python")]


TOLERANCE = 0.05
"""Pages show two digits or three; what sampled training ends with differs a little between machines."""


@pytest.mark.parametrize("path", WRITTEN, ids=[path.stem for path in WRITTEN])
def test_the_python_of_a_page_runs_and_prints_what_is_shown(path, capsys):
    names: dict[str, object] = {}
    page = path.read_text("utf-8")
    for block, shown in re.findall(
        r"^```python\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", page, re.MULTILINE | re.DOTALL
    ):
        exec(compile(block, str(path), "exec"), names)
        printed = capsys.readouterr().out
        assert "nan" not in printed
        assert not shown or differing(printed, shown, TOLERANCE) == []
    for name in set(OBJECTIVES) & {"cauchy"}:
        OBJECTIVES.remove(name)


def test_the_tutorial_shows_what_it_prints():
    tutorial = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    assert len(blocks(tutorial, "text")) == len(blocks(tutorial, "python")) > 3


def test_the_gallery_is_of_the_committed_figures():
    path = ROOT / "figures" / "gallery.py"
    specification = importlib.util.spec_from_file_location("gallery", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    assert (ROOT / "figures" / "README.md").read_text("utf-8") == script.gallery(), "run figures/gallery.py"


class Prose(HTMLParser):
    """Collects what a page says outside code, and the names of its tags."""

    SILENT = ("pre", "code", "script", "style")

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.within = "", set(), 0

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.within += tag in self.SILENT

    def handle_endtag(self, tag):
        self.within -= tag in self.SILENT

    def handle_data(self, data):
        self.text += "" if self.within else data


class Requests(HTMLParser):
    """Collects what a page makes a browser load, and the links that people may follow."""

    def __init__(self):
        super().__init__()
        self.loaded, self.linked = [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "src" in found:
            self.loaded.append(found["src"])
        if "href" in found:
            (self.loaded if tag == "link" else self.linked).append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the site needs the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
class TestSite:
    def test_it_is_complete(self, site):
        made = {str(path.relative_to(site)) for path in site.rglob("*.html")}
        wanted = {f"objectives/{name}.html" for name in IMPLEMENTATIONS}
        wanted |= {f"course/lesson{lesson.number}.html" for lesson in LESSONS.values()}
        wanted |= {"index.html", "tutorial.html", "gallery.html", "claims/index.html", "api/didsim.stationary.html"}
        assert wanted <= made
        ledger = "".join(path.read_text("utf-8") for path in (site / "claims").glob("*.html"))
        assert all(name in ledger for name in CLAIMS)
        interface = (site / "api" / "didsim.stationary.html").read_text("utf-8")
        assert "pairs of a problem and an objective" in interface  # docstrings are there

    def test_its_examples_are_code(self, site):
        for path in (site / "api").glob("*.html"):
            page = Prose()
            page.feed(path.read_text("utf-8"))
            assert "blockquote" not in page.tags, path
            assert ">>>" not in page.text, path
        information = (site / "api" / "didsim.info.html").read_text("utf-8")
        assert information.count("&gt;&gt;&gt;") >= 8  # one or more for each quantity

    def test_stars_and_bars_of_mathematics_are_shown_as_they_are(self, site):
        for path in [*site.glob("*.html"), *(site / "api").glob("*.html"), *(site / "objectives").glob("*.html")]:
            text = path.read_text("utf-8")
            assert not re.search(r"\w<em>|</em>\w", text), path
            assert r"\|" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL), path
        assert "JS(π*‖π)" in (site / "api" / "didsim.engine.html").read_text("utf-8")
        assert "(|y_w| − |y_l|)" in (site / "objectives" / "index.html").read_text("utf-8")

    def test_the_front_door_leads_to_every_public_name(self, site):
        page = Requests()
        page.feed((site / "api" / "didsim.html").read_text("utf-8"))
        shown = {url.rpartition("#")[2] for url in page.linked}
        assert {f"{home}.{name}" for name, home in didsim._HOME.items()} <= shown

    def test_a_module_explains_its_own_names(self, site):
        policy = (site / "api" / "didsim.policy.html").read_text("utf-8")
        assert 'id="didsim.policy.Policy"' in policy
        assert 'id="didsim.policy.message"' not in policy  # what it imports

    def test_an_objective_says_how_to_read_its_formula(self, site):
        page = Prose()
        page.feed((site / "objectives" / "dpo.html").read_text("utf-8"))
        assert "dpo: Direct preference optimisation" in page.text
        assert "S(z) = −log σ(z)" in page.text

    def test_it_loads_nothing_from_elsewhere(self, site):
        pages = list(site.rglob("*.html"))
        assert len(pages) > 80
        for path in pages:
            page = Requests()
            page.feed(path.read_text("utf-8"))
            assert [url for url in page.loaded if re.match(r"(https?:)?//", url)] == [], path

    def test_its_links_lead_somewhere(self, site):
        for path in site.rglob("*.html"):
            page = Requests()
            page.feed(path.read_text("utf-8"))
            for url in {*page.loaded, *page.linked}:
                target = url.partition("#")[0]
                if target and not re.match(r"[a-z]+:", target) and path.name != "404.html":
                    assert (path.parent / target).exists(), (path, url)
