"""The command `llm doctor`: every fault that is planted is found, and nothing where there is none."""

import copy
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from test_cli import document, refuses
from test_llm import language_model, reference_model, rows, tokenizer, trainer_of

from didsim import objective
from didsim.cli import cli
from didsim.errors import BadDataError
from didsim.llm import examine_data, examine_log, examine_start, load_log, load_pairs
from didsim.llm._doctor_start import memory_of

pytestmark = test_llm.pytestmark


def good_pairs():
    """Pairs of one kind, without a fault."""
    found = [row for row in rows(60) if row["chosen"].strip() and row["rejected"].strip()]
    return [row for row in found if row["chosen"] != row["rejected"]]


def log_rows(count=20, **columns):
    """A healthy log, with some columns made by functions of the row's number."""
    plain = {
        "loss": lambda i: math.log(2) - 0.02 * i,
        "grad_norm": lambda i: 2.0 + 0.1 * (i % 3),
        "learning_rate": lambda i: 1e-6 * (count - i) / count,
        "rewards/chosen": lambda i: 0.01 * i,
        "rewards/rejected": lambda i: -0.03 * i,
        "rewards/margins": lambda i: 0.04 * i,
        "rewards/accuracies": lambda i: 0.0 if i == 0 else 0.7,
        "logps/chosen": lambda i: -50.0 + 0.1 * i,
        "logps/rejected": lambda i: -55.0 - 0.3 * i,
    }
    made = {**plain, **columns}
    return [{"step": i + 1, **{name: made[name](i) for name in made}} for i in range(count)]


@pytest.fixture(scope="module")
def furniture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("furniture")
    language_model().save_pretrained(folder / "model")
    reference_model().save_pretrained(folder / "reference")
    for name in ("model", "reference"):
        tokenizer().save_pretrained(folder / name)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good_pairs()))
    (folder / "config.toml").write_text(
        'model = "model"\ndata = "pairs.jsonl"\nobjective = "dpo"\nout = "out"\nsteps = 3\nlearning_rate = 1e-4\n'
        "[set]\nbeta = 0.1\n[training]\nwarmup_steps = 1\n"
    )
    (folder / "training").mkdir()
    (folder / "training" / "trainer_state.json").write_text(json.dumps({"log_history": log_rows()}))
    return folder


@pytest.fixture(autouse=True)
def furnished(here, furniture):
    shutil.copytree(furniture, here, dirs_exist_ok=True)


def of(findings):
    """What is graver than ok, by name."""
    return {finding.name: finding.status for finding in findings if finding.status in ("problem", "warning")}


def sentence(findings, name):
    return next(finding.sentence for finding in findings if finding.name == name)


# --- data -------------------------------------------------------------------------------------------------


def examined(pairs, max_length=1024, splitter=None):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in pairs)
    Path("data.jsonl").write_text("\n".join(lines))
    return examine_data(load_pairs("data.jsonl", on_bad_row="skip"), splitter or tokenizer(), max_length)


def test_nothing_is_found_in_good_data():
    assert of(examined(good_pairs())) == {}


PROMPT = {"prompt": "a b c d e f g h", "chosen": " a", "rejected": " b"}

PLANTED = {
    "rows": ("problem", ["{", {"prompt": "a", "chosen": " b"}], 1024),
    "empty": ("problem", [PROMPT], 8),
    "cut": ("warning", [{**PROMPT, "rejected": " a" * (20 + extra)} for extra in range(5)], 14),
    "equal": ("warning", [{"prompt": "a b", "chosen": " c", "rejected": "  c"}], 1024),
    "duplicates": ("warning", [PROMPT, PROMPT], 1024),
    "contradictions": ("warning", [PROMPT, {**PROMPT, "chosen": " b", "rejected": " a"}], 1024),
    "start": ("problem", [{**PROMPT, "prompt": "<s> <s> a"}], 1024),
    "boundary": ("warning", [{"prompt": "a b", "chosen": "c a", "rejected": "d b"}], 1024),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_of_the_data_is_found(name):
    status, faulty, max_length = PLANTED[name]
    findings = examined([*good_pairs(), *faulty], max_length)
    assert of(findings)[name] == status, findings
    if name != "empty":
        assert set(of(findings)) == {name}


def test_where_the_fault_lies_is_said():
    last = len(good_pairs())
    assert f"1 pairs ({last})" in sentence(examined([*good_pairs(), PLANTED["equal"][1][0]]), "equal")
    assert f"1 pairs ({last + 1})" in sentence(examined([*good_pairs(), PROMPT, PROMPT]), "duplicates")
    assert f"2 pairs ({last}, {last + 1})" in sentence(
        examined([*good_pairs(), *PLANTED["contradictions"][1]]), "contradictions"
    )
    assert f"line {last + 1}: no JSON" in sentence(examined([*good_pairs(), "{"]), "rows")


def test_a_longer_response_that_is_chosen_too_often_is_found():
    def ordered(row):
        sides = sorted((row["chosen"], row["rejected"]), key=lambda text: len(text.split()))
        return {**row, "rejected": sides[0], "chosen": sides[1]}

    assert of(examined([ordered(row) for row in good_pairs()])) == {"length": "warning"}


def dialogues():
    def says(role, text):
        return [{"role": role, "content": text}]

    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [{name: says(role, row[name]) for name, role in roles.items()} for row in good_pairs()]


TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}END{% endif %}{% endfor %}"


def chatting(end):
    splitter = copy.deepcopy(tokenizer())
    splitter.chat_template = TEMPLATE.replace("END", end)
    return splitter


def test_dialogues_are_examined_as_the_chat_template_writes_them():
    assert of(examined(dialogues(), splitter=chatting("</s>"))) == {}
    assert of(examined(dialogues(), splitter=chatting(""))) == {"end": "problem"}
    assert of(examined(dialogues())) == {"template": "problem"}


def test_what_is_scored_is_shown():
    told = sentence(examined([{"prompt": "a b", "chosen": " c d", "rejected": " e"}]), "scored")
    assert told == "Of the first pair 'c d </s>' is scored as chosen response, 'a b' before it is not."


def test_the_trainers_own_tokens_are_examined(here):
    """What is called scored is what the trainer's batches have."""
    from datasets import Dataset

    from didsim.llm._doctor_data import prepare

    pairs = good_pairs()
    trainer = trainer_of("dpo", here / "out", data=Dataset.from_list(pairs), changes={"max_length": 9})
    Path("data.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    prepared = prepare(load_pairs("data.jsonl"), tokenizer(), 9)
    batch = test_llm.batch_of(trainer)
    kept = [n for n, row in enumerate(prepared.rows) if len(row["prompt_ids"]) < 9]
    for place, number in enumerate(kept):
        for half, side in enumerate(("chosen", "rejected")):
            row = place + half * len(kept)
            want = batch["input_ids"][row][batch["completion_mask"][row].bool()].tolist()
            assert prepared.scored(side, number) == want


# --- the first step ---------------------------------------------------------------------------------------


def started(here, loss="dpo", own=True, **others):
    from datasets import Dataset

    others.setdefault("data", Dataset.from_list(good_pairs()))
    trainer = trainer_of(loss, here / "out", **others)
    return examine_start(trainer, own), trainer


@pytest.mark.parametrize("loss", ["dpo", "simpo", "kto", "tdpo1", "aot"])
def test_nothing_is_found_at_a_good_start(loss, here):
    assert of(started(here, loss)[0]) == {}


def test_the_loss_at_the_start_is_log_2_for_dpo(here):
    assert "is 0.6931 nats, as dpo gives" in sentence(started(here)[0], "loss")


def with_dropout():
    model = language_model()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    return model


def test_dropout_is_found(here):
    findings, _ = started(here, model=with_dropout())
    assert of(findings).items() >= {"dropout": "problem", "reference": "problem", "loss": "problem"}.items()
    assert "of the policy over" in sentence(findings, "dropout")


def test_dropout_of_a_reference_is_found(here):
    from peft import LoraConfig

    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    findings, _ = started(here, model=with_dropout(), peft_config=adapter)
    assert "policy and of the reference" in sentence(findings, "dropout")


def test_a_policy_that_is_not_its_reference_is_found_and_another_reference_is_told(here):
    findings, _ = started(here, reference=reference_model())
    assert of(findings) == {"reference": "problem", "loss": "problem"}
    findings, trainer = started(here, own=False, reference=reference_model())
    assert of(findings) == {}
    pairs = trainer.pairs(next(iter(trainer.get_train_dataloader())))
    mean = torch.cat([pairs.chosen.log_ratio, pairs.rejected.log_ratio]).abs().mean()
    assert f"by {float(mean.detach()):.4g} nats per response" in sentence(findings, "reference")


@pytest.mark.parametrize(("beta", "own"), [(1e-7, True), (1e3, False)])
def test_a_loss_without_a_slope_is_found(here, beta, own):
    reference = None if own else language_model(seed=5)
    findings, _ = started(here, objective("dpo", beta=beta), own=own, reference=reference)
    assert of(findings)["slope"] in ("problem", "warning")


def test_frozen_weights_are_found(here):
    trainer = trainer_of("dpo", here / "out")
    trainer.model.requires_grad_(False)
    assert of(examine_start(trainer, True))["gradient"] == "problem"


def test_a_gradient_that_is_not_finite_is_found(here):
    trainer = trainer_of("dpo", here / "out")
    parameter = next(trainer.model.parameters())
    parameter.register_hook(lambda gradient: gradient * math.inf)
    assert of(examine_start(trainer, True))["gradient"] == "problem"


def test_a_batch_without_scored_tokens_is_found(here):
    collate = test_llm.PairCollator(pad_token_id=1, max_length=2)
    findings, _ = started(here, data_collator=collate)
    assert of(findings)["empty"] == "problem"


def test_memory_is_estimated_and_compared(here, monkeypatch):
    findings, trainer = started(here)
    parts = memory_of(trainer)
    weights = 4 * sum(part.numel() for part in language_model().parameters())
    assert (parts["weights"], parts["gradients"], parts["optimiser"]) == (weights, weights, 2 * weights)
    assert parts["reference"] == weights
    assert of(findings) == {}
    for there, status in ((1.1, "warning"), (0.9, "problem")):
        monkeypatch.setattr("didsim.llm._doctor_start._machine", lambda there=there: there * sum(parts.values()))
        assert of(examine_start(trainer, True)) == {"memory": status}


# --- logs -------------------------------------------------------------------------------------------------


def test_nothing_is_found_in_a_good_log():
    assert of(examine_log(log_rows())) == {}


FAULTS = {
    "numbers": ("problem", {"grad_norm": lambda i: math.nan if i == 7 else 2.0}),
    "start": ("warning", {"rewards/chosen": lambda i: 0.3}),
    "stuck": ("problem", {"loss": lambda i: 0.6931}),
    "displacement": ("warning", {"logps/chosen": lambda i: -50.0 - i, "logps/rejected": lambda i: -50.0 - 2 * i}),
    "chance": ("problem", {"rewards/accuracies": lambda i: 0.5}),
    "gradient": ("problem", {"grad_norm": lambda i: 0.0}),
    "learning rate": ("problem", {"learning_rate": lambda i: 0.0}),
    "masked": ("problem", {"logps/rejected": lambda i: 0.0}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_log_is_found(name):
    status, columns = FAULTS[name]
    assert of(examine_log(log_rows(**columns))) == {name: status}


def test_a_gradient_that_explodes_is_found_at_its_step():
    findings = examine_log(log_rows(grad_norm=lambda i: 1e4 if i == 12 else 2.0))
    assert of(findings) == {"gradient": "problem"}
    assert "at step 13" in sentence(findings, "gradient")


def test_where_numbers_end_is_said():
    findings = examine_log(log_rows(loss=lambda i: 0.5 if i < 4 else math.inf))
    assert sentence(findings, "numbers").startswith("loss is no finite number from step 5 on.")


def test_displacement_is_read_from_rewards_where_there_is_nothing_else():
    kept = log_rows(**{"rewards/chosen": lambda i: -0.1 * i, "rewards/rejected": lambda i: -0.2 * i})
    bare = [{name: value for name, value in row.items() if not name.startswith("logps")} for row in kept]
    assert of(examine_log(bare)) == {"displacement": "warning"}


def test_a_short_log_is_not_called_stuck():
    assert of(examine_log(log_rows(4, loss=lambda i: math.log(2)))) == {}


def written(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def forms():
    history = log_rows()
    lines = "\n".join(map(json.dumps, history))
    names = list(history[0])
    table = "\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in history)])
    return {
        "state": json.dumps({"log_history": [*history, {"train_runtime": 3.0, "step": 20}]}),
        "list": json.dumps(history),
        "lines": lines,
        "csv": table,
        "texts": "\n".join(json.dumps({name: str(value) for name, value in row.items()}) for row in history),
        "byte-order mark": "\ufeff" + lines,
        "zeros": lines.replace("\n", "\n\0\0", 1) + "\n" + "\0" * 50,
        "half a last line": lines + '\n{"loss": 0.',
        "other lines": "starting\n".join(["{}\n", lines]),
    }


@pytest.mark.parametrize("form", forms())
def test_a_log_is_read_in_any_form(form):
    assert load_log(written("log", forms()[form])) == log_rows()


def test_what_is_not_finite_is_read_as_that():
    text = json.dumps({"log_history": log_rows(loss=lambda i: math.nan)})
    assert "NaN" in text
    assert all(math.isnan(row["loss"]) for row in load_log(written("log", text)))


def test_the_log_of_an_unfinished_run_is_that_of_its_last_checkpoint():
    Path("unfinished/checkpoint-20").mkdir(parents=True)
    shutil.copy("training/trainer_state.json", "unfinished/checkpoint-20")
    assert load_log("unfinished") == log_rows()


@pytest.mark.parametrize(
    "content",
    ["", "thesis", "{", "[]", "3", "null", "[" * 10**5, '{"log_history": 3}', b"\xff\xfe\x00", "a,b\n1,2", '"\\ud800"'],
)
def test_what_is_no_log_is_bad_data(content):
    with pytest.raises(BadDataError, match="log"):
        load_log(written("log", content))


def test_what_cannot_be_read_is_bad_data(monkeypatch):
    os.mkfifo("fifo")
    for name in ("fifo", "nosuch", "model"):
        with pytest.raises(BadDataError, match=name):
            load_log(name)
    monkeypatch.setattr("didsim.llm._doctor_log.LARGEST_LOG", 10)
    with pytest.raises(BadDataError, match="larger"):
        load_log("training")


# --- the command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", cli.commands["llm"].commands["doctor"].examples)
def test_an_example_of_the_help_runs(example, run, here):
    before = sorted(here.rglob("*"))
    done = run(*example.split()[1:])
    assert (done.code, done.stderr) == (0, ""), done
    assert "problem  " not in done.stdout
    assert sorted(here.rglob("*")) == before


def test_a_document_has_the_findings_of_each_part(run):
    arguments = ("--model", "model", "--data", "pairs.jsonl", "--objective", "dpo", "--log", "training", "--json", "-q")
    done = run("llm", "doctor", *arguments)
    told = document(done.stdout)
    assert (done.code, done.stderr, told["ok"]) == (0, "", True)
    assert set(told) == {"schema_version", "ok", "data", "start", "log"}
    assert all(set(finding) == {"name", "status", "sentence"} for finding in told["start"])


def test_a_problem_ends_with_1_and_stands_first(run):
    written("bad.csv", "step,loss,learning_rate\n1,nan,0\n2,nan,0\n")
    done = run("llm", "doctor", "--log", "bad.csv")
    assert (done.code, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("problem  numbers: loss is no finite number from step 1 on.")
    assert lines[-1] == "Found 2 problems."
    assert document(run("llm", "doctor", "--log", "bad.csv", "--json").stdout)["ok"] is False


def test_a_run_is_examined_as_its_file_has_it(run):
    told = document(run("llm", "doctor", "config.toml", "--json").stdout)
    assert "as dpo gives" in sentence([SimpleNamespace(**finding) for finding in told["start"]], "loss")
    told = document(run("llm", "doctor", "config.toml", "-S", "beta=1e-8", "--json").stdout)
    assert "slope" in {finding["name"] for finding in told["start"] if finding["status"] == "problem"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "what is to be looked at?"),
        (("--data", "pairs.jsonl"), 2, "go together"),
        (("--model", "model"), 2, "go together"),
        (("--log", "training", "--objective", "dpo"), 2, "--objective is looked at"),
        (("--model", "model", "--data", "pairs.jsonl", "-S", "beta=1"), 2, "-S sets"),
        (("--model", "model", "--data", "pairs.jsonl", "--objective", "dop"), 2, "Did you mean dpo"),
        (("--model", "model", "--data", "nosuch"), 4, "no file nosuch"),
        (("--model", "nosuch", "--data", "pairs.jsonl"), 4, "no folder nosuch"),
        (("--log", "nosuch"), 4, "nosuch cannot be read"),
        (("--log", "pairs.jsonl"), 4, "is no log"),
    ],
)
def test_a_mistake_is_named(run, arguments, code, said):
    refuses(run("llm", "doctor", *arguments), code, said)
