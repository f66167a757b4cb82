"""The command `didsim llm eval`: its examples, documents, files and refusals."""

import csv
import io
import json
import shlex
import shutil
import sys

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
from conftest import ALL_COMMANDS
from datasets import Dataset
from test_llm import language_model, reference_model, rows, tokenizer, trainer_of

from didsim import objective

pytestmark = test_llm.pytestmark

EVAL = ALL_COMMANDS["llm eval"]

PLAIN = ("llm", "eval", "--reference", "reference", "--data", "pairs.jsonl", "--max-new-tokens", "6")


def filled(row):
    return {name: text if text.strip() else " a" for name, text in row.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models, pairs, and a training with two checkpoints, its log and its final model."""
    folder = tmp_path_factory.mktemp("eval")
    for name, model in (("reference", reference_model()), ("target", reference_model(5))):
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    data = [filled(row) for row in rows(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    changes |= {"per_device_eval_batch_size": 4}
    pairs = Dataset.from_list(data)
    trainer = trainer_of(
        objective("dpo", beta=0.5),
        folder / "training",
        model=language_model(),
        reference=reference_model(),
        data=pairs,
        changes=changes,
        eval_dataset=pairs,
    )
    trainer.train()
    trainer.save_model(str(folder / "training"))
    trainer.state.save_to_json(str(folder / "training" / "trainer_state.json"))
    return folder


@pytest.fixture
def there(here, made):
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


@pytest.mark.parametrize("example", EVAL.examples)
def test_the_examples_run(run, there, example):
    outcome = run(*shlex.split(example)[1:], "--max-new-tokens", "6")
    assert outcome.code == 0, outcome.stderr
    assert "12 pairs" in outcome.stdout


def test_every_checkpoint_has_a_row_with_the_numbers_of_the_log(run, there):
    outcome = run(*PLAIN, "--model", "training", "--objective", "dpo", "-S", "beta=0.5", "--samples", 0, "--json", "-q")
    assert (outcome.code, outcome.stderr) == (0, "")
    found = json.loads(outcome.stdout)["rows"]
    assert [(row["model"], row["step"]) for row in found] == [
        ("training/checkpoint-2", 2),
        ("training/checkpoint-4", 4),
        ("training", 4),
    ]
    log = json.loads((there / "training/trainer_state.json").read_text())["log_history"]
    logged = {row["step"]: row for row in log if "eval_loss" in row}
    for row in found:
        want = logged[row["step"]]
        for name in ("displacement/chosen", "displacement/chosen_share", "logps/rejected", "kl/ref_policy"):
            assert row[name] == pytest.approx(want[f"eval_{name}"], abs=1e-5)
        for name in ("loss", "rewards/margins", "rewards/accuracies"):
            assert row[f"dpo/{name}"] == pytest.approx(want[f"eval_{name}"], abs=1e-5)
        assert row["epoch"] == want["epoch"]


def test_the_rows_are_written_as_csv(run, there):
    outcome = run(*PLAIN, "--model", "target", "--model", "training/checkpoint-2", "--out", "rows.csv", "--json")
    document = json.loads(outcome.stdout)["rows"]
    assert "Wrote 2 rows" in outcome.stderr
    found = list(csv.DictReader(io.StringIO((there / "rows.csv").read_text())))
    assert [row["model"] for row in found] == ["target", "training/checkpoint-2"]
    for row, want in zip(found, document, strict=True):
        assert float(row["kl/policy_ref"]) == want["kl/policy_ref"]


def test_two_steps_tell_the_nearest_tilt(run, there):
    drawn = run(*PLAIN, "--model", "target", "--samples", 12, "--samples-out", "responses.jsonl")
    assert "KL to tilt" not in drawn.stdout
    lines = [json.loads(line) for line in (there / "responses.jsonl").read_text().splitlines()]
    assert {line["role"] for line in lines} == {"policy", "reference"}
    with (there / "rewards.jsonl").open("w") as file:
        for line in lines:
            file.write(
                json.dumps({**line, "reward": (line["role"] == "policy") * 0.2 + len(line["tokens"]) % 3}) + "\n"
            )
    outcome = run(*PLAIN, "--model", "target", "--reward", "rewards.jsonl", "--json")
    [row] = json.loads(outcome.stdout)["rows"]
    assert row["tilt/unknown"] == ""
    assert row["tilt/kl"] <= row["kl/policy_ref"] + 1e-12
    text = run(*PLAIN, "--model", "target", "--reward", "rewards.jsonl").stdout
    assert "KL to tilt" in text
    assert "effective" in text


def test_rewards_that_tell_no_tilt_are_refused_in_words(run, there):
    run(*PLAIN, "--model", "target", "--samples", 2, "--samples-out", "responses.jsonl")
    lines = [json.loads(line) for line in (there / "responses.jsonl").read_text().splitlines()]
    (there / "rewards.jsonl").write_text("".join(json.dumps({**line, "reward": 1}) + "\n" for line in lines))
    outcome = run(*PLAIN, "--model", "target", "--reward", "rewards.jsonl")
    assert outcome.code == 0
    assert "the nearest tilt is unknown. The rewards" in outcome.stdout
    [row] = json.loads(run(*PLAIN, "--model", "target", "--reward", "rewards.jsonl", "--json").stdout)["rows"]
    assert row["tilt/kl"] is None


def test_rewards_of_pairs_say_what_is_missing(run, there):
    lines = [json.loads(line) for line in (there / "pairs.jsonl").read_text().splitlines()]
    scored = [{**line, "reward_chosen": 1.0, "reward_rejected": 0.1 * number} for number, line in enumerate(lines)]
    (there / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scored))
    outcome = run(*PLAIN, "--model", "target", "--samples", 0)
    assert "R², pairs" in outcome.stdout
    assert "see --samples-out" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "nowhere"), 4, "no folder nowhere"),
        (("--model", "target", "--reference", "nowhere"), 4, "no folder nowhere"),
        (("--model", "target", "--data", "nowhere.jsonl"), 4, "no file nowhere.jsonl"),
        (("--model", "target", "--reward", "nowhere.jsonl"), 4, "no file nowhere.jsonl"),
        (("--model", "target", "-S", "beta=1"), 2, "--objective"),
        (("--model", "target", "--objective", "dop"), 2, "dpo"),
        (("--model", "target", "--objective", "mi_dpo", "-S", "prior=learned"), 2, "beside the policy"),
        (("--model", "target", "--samples", "0", "--samples-out", "a.jsonl"), 2, "--samples 0"),
        (("--model", "target", "--reward", "a.jsonl", "--samples-out", "a.jsonl"), 2, "two steps"),
        (("--model", "target", "--out", "rows.txt"), 2, "FILE.csv"),
        ((), 2, "--model"),
    ],
)
def test_what_cannot_be_done_is_refused(run, there, arguments, code, words):
    outcome = run(*PLAIN, *arguments)
    assert outcome.code == code, outcome
    assert words in outcome.stderr
    assert outcome.stdout == ""


def test_pairs_that_are_too_long_are_counted(run, there):
    prompts = [json.loads(line)["prompt"] for line in (there / "pairs.jsonl").read_text().splitlines()]
    lengths = [len(prompt.split()) for prompt in prompts]
    outcome = run(*PLAIN, "--model", "target", "--samples", 0, "--max-length", 3)
    assert f"{sum(length >= 3 for length in lengths)} of 12 pairs are left out" in outcome.stdout


def test_results_are_not_lost_where_nothing_can_be_written(run, there):
    outcome = run(*PLAIN, "--model", "target", "--samples", 0, "--out", "pairs.jsonl/rows.csv")
    assert outcome.code == 7
    assert "12 pairs" in outcome.stdout


def test_without_the_extra_one_line_says_what_to_install(run, there, monkeypatch):
    for name in [name for name in sys.modules if name == "didsim.llm" or name.startswith("didsim.llm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run(*PLAIN, "--model", "target")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.count("\n") == 1
    assert "didsim[llm]" in outcome.stderr
