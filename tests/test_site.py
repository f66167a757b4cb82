"""The documentation site: its code runs, it is complete, and it asks nothing of the network."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_docs import blocks

from didsim import CLAIMS, OBJECTIVES
from didsim.lessons import LESSONS
from didsim.objectives import IMPLEMENTATIONS

ROOT = Path(__file__).parent.parent
WRITTEN = [path for path in sorted((ROOT / "docs").rglob("*.md")) if blocks(path.read_text("utf-8"), "python")]


@pytest.mark.parametrize("path", WRITTEN, ids=[path.stem for path in WRITTEN])
def test_the_python_of_a_page_runs(path, capsys):
    names: dict[str, object] = {}
    for block in blocks(path.read_text("utf-8"), "python"):
        exec(compile(block, str(path), "exec"), names)
    for name in set(OBJECTIVES) & {"cauchy"}:
        OBJECTIVES.remove(name)
    assert "nan" not in capsys.readouterr().out


def test_the_gallery_is_of_the_committed_figures():
    path = ROOT / "figures" / "gallery.py"
    specification = importlib.util.spec_from_file_location("gallery", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    assert (ROOT / "figures" / "README.md").read_text("utf-8") == script.gallery(), "run figures/gallery.py"


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
