"""The page of `didsim verify --report`: whole, self-contained, escaped, and readable in every way."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from didsim._report import VERDICTS, _caption, data, inline, number, page, sentence
from didsim.claims import CLAIMS, check_claim
from didsim.claims import VERDICTS as ALL_VERDICTS
from didsim.plotting import render

NAMES = ("did.thm-3.3", "mi.eq-3", "mi.eq-5", "alpha.w-corr", "x.corrected-weights", "x.lower-bound", "rmipo.margin")
VOID = {"meta", "br"}
NASTY = """<script>alert("1")</script> & 'x'"""


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def results():
    return [check_claim(CLAIMS[name], draws=3) for name in NAMES]


@pytest.fixture(scope="module")
def text(results):
    return page(results, 3, 0)


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


class TestPage:
    def test_every_element_is_closed(self, parsed):
        assert parsed.open == []

    def test_it_needs_nothing_from_outside_and_runs_nothing(self, text, parsed):
        assert {tag for tag, _ in parsed.elements} & {"script", "link", "img", "iframe", "object", "form"} == set()
        assert [name for name in parsed.all("href") if not name.startswith("#")] == []
        assert [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")] == []
        assert "@import" not in text
        assert re.findall(r"url\((?!#)", text) == []

    def test_ids_are_distinct_and_every_link_leads_to_one(self, text, parsed):
        ids = parsed.all("id")
        assert len(ids) == len(set(ids))
        named = [*parsed.all("href"), *parsed.all("xlink:href"), *re.findall(r"url\((#[^)]+)\)", text)]
        assert {name.removeprefix("#") for name in named} <= set(ids)
        labels = [word for words in parsed.all("aria-labelledby") for word in words.split()]
        assert set(labels) <= set(ids)

    def test_the_same_results_make_the_same_bytes(self, results, text):
        assert page(results, 3, 0) == text

    def test_it_tells_all_of_each_claim(self, text):
        for name in NAMES:
            claim = CLAIMS[name]
            [article] = re.findall(rf'<article id="{re.escape(name)}".*?</article>', text, re.DOTALL)
            words = [claim.statement, claim.source, claim.reason, claim.note, claim.control.breaks, *claim.assumptions]
            words += [claim.condition[0]] if claim.condition else []
            for said in words:
                assert sentence(said, set(NAMES)) in article
            assert f"{VERDICTS[claim.verdict][0]}</span> {claim.verdict}</span>" in article
            assert data(claim.control.instance) in article

    def test_the_table_at_the_top_links_to_each_claim(self, text, results):
        [summary] = re.findall(r'<table class="summary">.*?</table>', text, re.DOTALL)
        links = re.findall(r'<th scope="row"><a class="name" href="#([^"]+)"', summary)
        assert links == [*NAMES[:4], "rmipo.margin", "x.corrected-weights", "x.lower-bound"]

    def test_claims_stand_under_their_papers(self, text):
        assert re.findall(r"<h2 id=[^>]*>(.*?)</h2>", text) == [
            *("Summary", "Differential Information paper", "MI-DPO paper", "α-DPO paper", "RMiPO paper"),
            "Our own statements",
        ]

    def test_a_corrected_claim_is_a_link_there_and_back(self, text):
        assert '<dt>Corrected</dt><dd><a class="name" href="#x.corrected-weights">' in text
        assert '<dt>Corrects</dt><dd><a class="name" href="#alpha.w-corr">' in text

    def test_a_corrected_claim_that_is_not_on_the_page_is_named_only(self, results):
        [alone] = [result for result in results if result.name == "alpha.w-corr"]
        assert '<dt>Corrected</dt><dd><span class="name">x.corrected-weights</span>' in page([alone], 3, 0)

    def test_a_verdict_that_differs_from_the_recorded_one_stands_out(self, results):
        changed = replace(results[0], verdict="fails")
        told = page([changed, *results[1:]], 3, 0)
        assert told.count("recorded: holds<") == 2
        assert "<strong>1 not as recorded:</strong>" in told
        assert "Every verdict is the recorded one." not in told

    def test_it_never_claims_a_proof_of_its_own(self, results):
        bare = [replace(r, claim=replace(r.claim, note="", reason="", source="")) for r in results]
        assert "proved" not in page(bare, 3, 0)

    def test_it_follows_the_readers_colours_screen_and_paper(self, text):
        for words in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "width=device-width"):
            assert words in text

    def test_everything_from_data_is_escaped(self, results):
        claim = replace(
            results[0].claim,
            **dict.fromkeys(("statement", "source", "note", "reason"), NASTY),
            assumptions={NASTY: lambda instance: True},
            condition=(NASTY, lambda instance: True),
            control=replace(results[0].claim.control, breaks=NASTY, instance={NASTY: NASTY, "list": [[NASTY]]}),
        )
        told = page(
            [replace(results[0], claim=claim, sentence=NASTY, counterexample={NASTY: NASTY}, violation=1.0)], 3, 0
        )
        parsed = Page(told)
        assert parsed.open == []
        assert "script" not in {tag for tag, _ in parsed.elements}
        assert "<script" not in told


def test_every_verdict_has_a_sign_of_its_own():
    assert tuple(VERDICTS) == ALL_VERDICTS
    assert len({sign for sign, _ in VERDICTS.values()}) == len(VERDICTS)


class TestFigures:
    @pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.picture])
    def test_every_picture_can_be_drawn_and_says_what_it_shows(self, name):
        caption = _caption(CLAIMS[name])
        assert len(caption) > 20
        made = render(CLAIMS[name].picture, (1, 1), (4, 3), ("svg",), "paper", name, caption)["svg"].decode()
        svg = ElementTree.fromstring(inline(made, name))
        assert svg.get("role") == "img"
        space = "{http://www.w3.org/2000/svg}"
        assert [svg.find(f"{space}{tag}").text for tag in ("title", "desc")] == [name, caption]
        assert svg.get("width") is None
        assert svg.get("viewBox")
        assert list(svg.iter(f"{space}style")) == []

    def test_ids_of_two_figures_differ(self):
        made = render(lambda axes: axes[0, 0].plot([1, 2]), (1, 1), (4, 3), ("svg",))["svg"].decode()
        one, two = (set(re.findall(r'\bid="([^"]+)"', inline(made, name))) for name in ("x.one", "x.two"))
        assert one
        assert not one & two


class TestText:
    @pytest.mark.parametrize(
        ("plain", "html"),
        [
            ("π/π_ref", "π/π<sub>ref</sub>"),
            ("q_{π_ref/π_l} ∝ q^β", "q<sub>π<sub>ref</sub>/π<sub>l</sub></sub> ∝ q<sup>β</sup>"),
            ("e^{αM} y_w, E[ρ^−1]", "e<sup>αM</sup> y<sub>w</sub>, E[ρ<sup>−1</sup>]"),
            ("log_ratio, f_dpo, num_classes", "log_ratio, f_dpo, num_classes"),
            ("`didsim solve y_w`", "<code>didsim solve y_w</code>"),
            ("a < b & c", "a &lt; b &amp; c"),
            ("see x.dual.", 'see <a class="name" href="#x.dual">x.dual</a>.'),
            ("see x.other.", "see x.other."),
            ("within 1e-7 nats", "within 10<sup>−7</sup> nats"),
        ],
    )
    def test_formulas_code_and_names_are_set(self, plain, html):
        assert sentence(plain, {"x.dual"}) == html

    @pytest.mark.parametrize(
        ("value", "html"),
        [
            *((0.0, "0"), (0.25, "0.25"), (1e-9, "10<sup>−9</sup>"), (1.234e-7, "1.23·10<sup>−7</sup>")),
            *((-2.5, "−2.5"), (float("inf"), "∞"), (123456.0, "1.23·10<sup>5</sup>")),
        ],
    )
    def test_numbers_are_short(self, value, html):
        assert number(value) == html

    def test_data_are_vectors_and_rows_of_matrices(self):
        told = data({"a": [0.5, 0.25], "b": [[1, 2], [3, 4]], "c": True, "d": None, "e": 1 / 3, "f": "<"})
        cells = re.findall(r"<td>(.*?)</td>", told)
        assert cells == ["(0.5, 0.25)", "(1, 2)<br>(3, 4)", "true", "none", "0.333333", "&lt;"]
