"""What other libraries are said to compute: every objective is there, and what is said of TRL stands in its source."""

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from didsim.objectives import IMPLEMENTATIONS
from didsim.objectives._registry import BUILT_IN

ROWS = [pytest.param(name, row, id=f"{name}: {row.library}") for name, rows in IMPLEMENTATIONS.items() for row in rows]


def test_every_objective_of_didsim_is_there_and_no_other():
    assert list(IMPLEMENTATIONS) == [record.name for record in BUILT_IN]


def test_objectives_without_a_row_are_those_of_papers_without_code():
    assert {name for name, rows in IMPLEMENTATIONS.items() if not rows} == {
        "mi_dpo",
        "rmipo",
        "dpo_pg",
        "entropy_probe",
    }


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_says_what_is_computed_and_where_that_was_read(name, row):
    assert row.library
    assert row.name
    assert 0 < len(row.computes) <= 140
    assert row.same is not None, "a library that nobody looked at needs no row"
    assert re.search(r" \d+\.\d+\.\d+, .*| at [0-9a-f]{7}\b", row.source), "a package's version, or a commit"


def test_no_row_stands_twice():
    for rows in IMPLEMENTATIONS.values():
        assert len({(row.library, row.name) for row in rows}) == len(rows)


# --- TRL --------------------------------------------------------------------------------------------------


def installed_trl() -> str | None:
    try:
        return version("trl")
    except PackageNotFoundError:
        return None


def trl_source(file: str) -> str:
    spec = find_spec("trl")
    assert spec is not None
    return (Path(str(spec.origin)).parent / file).read_text("utf-8")


IN_TRL = [(name, row) for name, rows in IMPLEMENTATIONS.items() for row in rows if row.library == "TRL"]


@pytest.mark.skipif(installed_trl() != "1.16.0", reason="the rows are about TRL 1.16.0, an extra")
class TestTRL:
    @pytest.mark.parametrize(("name", "row"), IN_TRL, ids=[name for name, _ in IN_TRL])
    def test_the_names_of_a_row_stand_in_the_file_that_it_names(self, name, row):
        package, file, functions = row.source.split(", ")
        assert package == "trl 1.16.0"
        source = trl_source(file)
        config = trl_source(file.replace("_trainer.py", "_config.py"))
        for word in re.findall(r"'(\w+)'", row.name):
            assert f'"{word}"' in source + config
        for word in re.findall(r"\b(\w+)(?==)|^(\w+)$", row.name):
            assert "".join(word) in source
        for word in re.findall(r"(?<!\w)(?:[A-Z]\w+\.)?(_?[a-z]\w+_loss\w*|get_batch_loss_metrics)", functions):
            assert f"def {word}" in source

    def test_every_loss_of_the_dpo_trainer_that_compares_has_a_row(self):
        known = set(
            re.findall(r'elif loss_type == "(\w+)"|if loss_type == "(\w+)"', trl_source("trainer/dpo_trainer.py"))
        )
        types = {first or second for first, second in known} - {"sft"}
        assert len(types) == 14
        named = {
            word
            for _, row in IN_TRL
            if "dpo_trainer.py, DPO" in row.source
            for word in re.findall(r"'(\w+)'", row.name)
        }
        assert types == named
