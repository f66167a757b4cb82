"""The command `llm train`: what it reads, writes, refuses and says; and that its model is the trainer's."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from datasets import Dataset
from safetensors.torch import load_file
from test_cli import document, refuses
from test_llm import language_model, reference_model, rows, tokenizer, trainer_of
from trl import DPOConfig

import didsim
from didsim import objective
from didsim._language_models._configuration import as_toml
from didsim._language_models._train import COLUMNS, check_processes
from didsim.cli import cli
from didsim.errors import ResourceError
from didsim.llm import PreferenceTrainer, check_training, last_checkpoint, load_model, load_tokenizer
from didsim.llm._settings import OWNED, UNUSED
from didsim.llm._trainer import UNREAD

pytestmark = test_llm.pytestmark

CONFIG = """
model = "model"
data = "pairs.jsonl"
objective = "simpo"
learning_rate = 1e-3
steps = 4
batch_size = 4

[set]
gamma = 0.3

[training]
logging_steps = 1
lr_scheduler_type = "cosine"
save_steps = 2
"""


def pairs():
    return [row for row in rows(40) if row["chosen"].strip() and row["rejected"].strip()]


@pytest.fixture(scope="module")
def furniture(tmp_path_factory):
    """A folder with all that the examples name."""
    folder = tmp_path_factory.mktemp("furniture")
    for name, model in (("model", language_model()), ("reference", reference_model())):
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    (folder / "config.toml").write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def furnished(here, furniture):
    shutil.copytree(furniture, here, dirs_exist_ok=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refused(*_arguments, **_named):
        raise AssertionError("this went to the network")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)


def trained(run, *arguments):
    """Train by the command, and return what it tells."""
    done = run("llm", "train", *arguments, "--json", "-q")
    assert (done.code, done.stderr) == (0, ""), done
    return document(done.stdout)


def planned(run, *arguments):
    return trained(run, *arguments, "--dry-run")


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what is trained --------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", cli.commands["llm"].commands["train"].examples)
def test_an_example_of_the_help_runs(example, run):
    done = run(*example.split()[1:])
    assert done.code == 0, done.stderr


def test_the_model_is_the_one_that_the_trainer_makes(run, here):
    told = trained(run, "config.toml", "--out", "out", "--reference", "reference")
    changes = {"max_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "optim": "adamw_torch_fused"}
    changes |= {"gradient_checkpointing": True, "activation_checkpointing": None, "max_grad_norm": 1.0}
    trainer = trainer_of(
        objective("simpo", gamma=0.3),
        here / "other",
        model=load_model("model"),
        reference=load_model("reference"),
        data=Dataset.from_list(pairs()),
        changes=changes,
    )
    trainer.train()
    assert same(weights("out"), dict(trainer.model.state_dict()))
    steps = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["loss"] for row in told["log"]] == [row["loss"] for row in steps]
    assert told["log"][0]["displacement/chosen"] != 0.0  # the reference is another model
    assert not same(weights("out"), weights("model"))


def test_without_a_reference_the_model_is_its_own(run):
    told = trained(run, "config.toml", "--out", "out", "--steps", 2)
    assert told["log"][0]["displacement/chosen"] == 0.0
    assert told["log"][1]["displacement/chosen"] != 0.0


def test_what_is_written_can_be_read_and_trained_again(run, here):
    told = trained(run, "config.toml", "--out", "out")
    assert same(dict(load_model("out").state_dict()), weights("out"))
    assert load_tokenizer("out")("a b")["input_ids"] == tokenizer()("a b")["input_ids"]
    files = {path.name for path in Path("out").iterdir() if path.is_file()}
    assert files >= {"model.safetensors", "tokenizer.json", "trainer_state.json", "didsim.json"}
    assert not files & {"training_args.bin", "README.md"}
    manifest = json.loads(Path("out/didsim.json").read_text())
    assert manifest["finished"]
    assert manifest["finite"]
    assert manifest["metrics"] == told["log"][-1]
    assert manifest["config"]["set"] == {"beta": 2.0, "gamma": 0.3, "gamma_form": "absolute"}
    assert manifest["versions"].keys() >= {"didsim", "torch", "transformers", "trl"}
    assert manifest["data"]["pairs"] == len(pairs())
    state = json.loads(Path("out/trainer_state.json").read_text())
    assert [row["loss"] for row in state["log_history"] if "loss" in row] == [row["loss"] for row in told["log"]]
    trained(run, "config.toml", "--model", "out", "--out", "again", "--steps", 1)


def test_an_adapter_is_written_as_one_and_read_with_its_model(run):
    trained(run, "config.toml", "--out", "out", "--lora", 2, "--learning-rate", 0.1)
    assert json.loads(Path("out/adapter_config.json").read_text())["r"] == 2
    assert Path("out/adapter_model.safetensors").is_file()
    tokens = torch.arange(4)[None]
    with torch.no_grad():
        changed = load_model("out")(tokens).logits - load_model("model")(tokens).logits
    assert float(changed.abs().max()) > 1e-3
    refuses(run("llm", "train", "config.toml", "--model", "out", "--out", "more"), 4, "is an adapter", "Merge it")


def test_an_objective_of_ones_own_is_trained(run, here):
    Path("mine.py").write_text(
        "def squared(pairs):\n    return (pairs.chosen.log_ratio - pairs.rejected.log_ratio) ** 2\n"
    )
    arguments = ("--model", "model", "--data", "pairs.jsonl", "--objective", "mine.py:squared")
    told = trained(run, *arguments, "--out", "out", "--steps", 1)
    assert told["config"]["objective"] == "mine.py:squared"
    assert told["log"][0]["loss"] == 0.0


def test_bad_rows_are_skipped_and_counted_when_asked(run):
    with Path("pairs.jsonl").open("a") as file:
        file.write('{"prompt": "a", "chosen": "b"}\n{"prompt": "' + "a " * 50 + '", "chosen": "b", "rejected": "c"}\n')
    arguments = ("config.toml", "--out", "out", "--steps", 1, "--max-length", 20)
    refuses(run("llm", "train", *arguments), 4, "rejected is missing")
    told = trained(run, *arguments, "--on-bad-row", "skip")["data"]
    assert (told["skipped"], told["too_long"], told["pairs"]) == (1, 1, len(pairs()) + 1)
    done = run("llm", "train", *arguments[:2], "more", *arguments[3:], "--on-bad-row", "skip")
    assert "1 rows are skipped" in done.stderr
    assert "1 pairs are left out" in done.stderr


def test_a_length_that_leaves_no_pair_is_refused(run):
    Path("pairs.jsonl").write_text('{"prompt": "a b c", "chosen": " d", "rejected": " e"}\n')
    refuses(run("llm", "train", "config.toml", "--out", "out", "--max-length", 3), 2, "max_length must be larger than")


def test_training_that_diverges_ends_with_1_and_writes_no_model(run):
    done = run("llm", "train", "config.toml", "--out", "out", "--learning-rate", "1e38", "--json", "-q")
    assert (done.code, done.stderr) == (1, "")
    assert document(done.stdout)["finite"] is False
    assert not Path("out/model.safetensors").exists()


# --- what is said -----------------------------------------------------------------------------------------


def test_a_table_of_the_log_and_the_place_of_the_model_are_printed(run):
    done = run("llm", "train", "config.toml", "--out", "out", "--steps", 30)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["step", "loss", "margin"]
    assert [line.split()[0] for line in (lines[1], lines[12])] == ["1", "30"]
    assert "18 more logged steps" in lines[13]
    assert lines[-1].startswith("The model is in out")
    assert done.stderr.splitlines()[0].startswith("Step 1 of 30: loss ")
    assert len(done.stderr.splitlines()) == 30


def test_the_columns_are_of_names_that_are_logged(run):
    assert COLUMNS.keys() <= trained(run, "config.toml", "--out", "out", "--steps", 1)["log"][0].keys()


# --- interruption -----------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(run, monkeypatch):
    """A run in `out` that ended in its third step, after a checkpoint at the second."""
    step, seen = PreferenceTrainer.training_step, []

    def until_the_third(self, *arguments, **named):
        seen.append(None)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    monkeypatch.setattr(PreferenceTrainer, "training_step", until_the_third)
    done = run("llm", "train", "config.toml", "--out", "out")
    monkeypatch.setattr(PreferenceTrainer, "training_step", step)
    assert done.code == 130
    assert "out/checkpoint-2 is kept; --resume continues from there." in done.stderr
    assert not Path("out/model.safetensors").exists()


@pytest.mark.usefixtures("interrupted")
def test_a_resumed_run_is_the_uninterrupted_one(run):
    done = run("llm", "train", "config.toml", "--out", "out", "--resume", "--json")
    assert done.stderr.startswith("Continuing from out/checkpoint-2.\nStep 3 of 4: ")
    whole, resumed = trained(run, "config.toml", "--out", "whole"), document(done.stdout)
    assert same(weights("out"), weights("whole"))
    assert [row["loss"] for row in resumed["log"]] == [row["loss"] for row in whole["log"]]
    assert [row["step"] for row in resumed["log"]] == [1, 2, 3, 4]
    again = run("llm", "train", "config.toml", "--out", "out", "--resume", "--json")
    assert again.stderr == "The run in out is finished; there is nothing to do.\n"
    assert document(again.stdout) == resumed


@pytest.mark.usefixtures("interrupted")
def test_a_checkpoint_that_is_not_whole_is_passed_over(run):
    shutil.copytree("out/checkpoint-2", "out/checkpoint-3")
    Path("out/checkpoint-3/trainer_state.json").write_text("{")
    shutil.copytree("out/checkpoint-2", "out/checkpoint-10")
    Path("out/checkpoint-10/trainer_state.json").unlink()
    assert last_checkpoint(Path("out")) == Path("out/checkpoint-2")
    assert run("llm", "train", "config.toml", "--out", "out", "--resume").code == 0


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--learning-rate", "2e-3"), "learning_rate = 0.001, not 0.002"),
        (("-S", "gamma=0.1"), "set = "),
        (("--seed", "1"), "seed = 42, not 1"),
    ],
)
def test_another_run_does_not_continue_this_one(run, arguments, said):
    refuses(run("llm", "train", "config.toml", "--out", "out", "--resume", *arguments), 2, said)


@pytest.mark.usefixtures("interrupted")
def test_other_data_do_not_continue_this_run(run):
    Path("pairs.jsonl").write_text(Path("pairs.jsonl").read_text() + "\n")
    refuses(run("llm", "train", "config.toml", "--out", "out", "--resume"), 2, "data of sha256")


@pytest.mark.usefixtures("interrupted")
def test_a_run_is_not_overwritten_unless_it_is_continued(run):
    refuses(run("llm", "train", "config.toml", "--out", "out"), 7, "holds a run already", "--resume")


@pytest.mark.usefixtures("interrupted")
def test_a_damaged_manifest_is_bad_data(run):
    Path("out/didsim.json").write_text("[]")
    refuses(run("llm", "train", "config.toml", "--out", "out", "--resume"), 4, "didsim.json is damaged")


def test_with_nothing_to_continue_training_begins_anew(run):
    done = run("llm", "train", "config.toml", "--out", "out", "--resume", "--steps", 1)
    assert done.code == 0
    assert done.stderr.startswith("There is no checkpoint: beginning anew.\n")


def test_settings_that_are_refused_leave_a_folder_that_can_be_used(run):
    refuses(run("llm", "train", "config.toml", "--out", "out", "--objective", "kto", "--batch-size", 1), 2, "gamma")
    Path("config.toml").write_text(CONFIG.replace("gamma = 0.3", ""))
    arguments = ("llm", "train", "config.toml", "--out", "out", "--objective", "kto", "--steps", 1)
    refuses(run(*arguments, "--batch-size", 1), 2, "per_device_train_batch_size must be at least 2")
    assert run(*arguments).code == 0


def test_a_folder_of_someone_elses_is_not_touched(run, here):
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("mine")
    refuses(run("llm", "train", "config.toml", "--out", "out"), 7, "holds files that are not didsim's")
    assert [path.name for path in (here / "out").iterdir()] == ["thesis.txt"]


# --- settings ---------------------------------------------------------------------------------------------


def test_a_flag_comes_before_the_environment_and_that_before_the_file(run, monkeypatch):
    def steps(*arguments):
        return planned(run, "config.toml", "--out", "out", *arguments)["config"]["steps"]

    assert steps() == 4
    monkeypatch.setenv("DIDSIM_LLM_TRAIN_STEPS", "5")
    assert steps() == 5
    assert steps("--steps", 6) == 6


def test_steps_and_epochs_are_not_both_counted(run, monkeypatch):
    plan = planned(run, "config.toml", "--out", "out", "--epochs", 2)["config"]
    assert (plan["steps"], plan["epochs"]) == (None, 2.0)
    refuses(run("llm", "train", "config.toml", "--out", "out", "--epochs", 2, "--steps", 3), 2, "not both")
    Path("config.toml").write_text("epochs = 2\n" + CONFIG)
    refuses(run("llm", "train", "config.toml", "--out", "out"), 2, "not both")
    assert planned(run, "config.toml", "--out", "out", "--steps", 3)["config"]["steps"] == 3


def test_hyperparameters_of_the_command_line_are_put_over_those_of_the_file(run):
    plan = planned(run, "config.toml", "--out", "out", "-S", "gamma=0.7", "-S", "beta=3")["config"]
    assert (plan["set"]["gamma"], plan["set"]["beta"]) == (0.7, 3.0)


def test_a_plan_is_a_file_of_the_same_settings_and_nothing_is_written(run, here):
    before = sorted(here.rglob("*"))
    arguments = ("--out", "out", "--lora", 3, "-S", "beta=1e-2")
    done = run("llm", "train", "config.toml", *arguments, "--dry-run")
    assert done.stderr == ""
    assert sorted(here.rglob("*")) == before
    assert f"# Data: {len(pairs())} pairs." in done.stdout
    Path("plan.toml").write_text(done.stdout)
    assert planned(run, "plan.toml")["config"] == planned(run, "config.toml", *arguments)["config"]
    assert "accelerate launch --num_processes 2 -m didsim llm train config.toml --out out" in done.stdout


def test_a_plan_says_all_that_stands_in_the_file(run):
    plan = planned(run, "config.toml", "--out", "out")["config"]
    want = tomllib.loads(CONFIG)
    assert plan["training"] == want.pop("training")
    assert plan["set"].items() >= want.pop("set").items()
    assert plan.items() >= want.items()


@pytest.mark.parametrize(
    "value",
    ["", 'a"b\\c\n\t', "\x7f\x00é𝔸", 1, -(10**15), 1e-300, 0.1, float("inf"), True, [], [1.5, "x"], {"a b": [{}]}],
)
def test_what_is_written_as_toml_is_read_as_it_was(value):
    content = {"name": value, "left_out": None, "table": {"name": value}}
    assert tomllib.loads(as_toml(content)) == {"name": value, "table": {"name": value}}


BROKEN = {
    'steps = "4"': ("steps must be a whole number", "'4'"),
    "steps = 4.0": ("steps must be a whole number",),
    "steps = true": ("steps must be a whole number",),
    "steps = 0": ("steps", "from 1 to"),
    "hub = 1": ("hub must be true or false",),
    "learning_rate = 0": ("learning_rate",),
    "learning_rate = nan": ("learning_rate",),
    "lerning_rate = 1.0": ("'lerning_rate'", "Did you mean learning_rate"),
    "dry_run = true": ("'dry_run'",),
    "json = true": ("'json'",),
    "set = 3": ("set must be a table, [set]",),
    'dtype = "float16"': ("dtype", "float16"),
    "seed = 1,5": ("no TOML", "line 1"),
    "seed = ": ("no TOML", "end of document"),
    "model = model": ("no TOML", "line 1", "quotes"),
    "[set]\nbeta = -1": ("beta must be",),
    "[set]\nbetta = 1": ("betta", "Did you mean beta"),
    "[training]\nwarmup_stepz = 1": ("'warmup_stepz'", "Did you mean warmup_steps"),
    "[training]\nlearning_rate = 1.0": ("learning_rate, outside the table",),
    "[training]\nper_device_train_batch_size = 1": ("is called batch_size here",),
    "[training]\nbf16 = true": ("is called dtype here",),
    "[training]\nbeta = 0.1": ("TRL's own losses", "-S NAME=VALUE"),
    '[training]\nloss_type = "ipo"': ("TRL's own losses",),
    "[training]\ntrust_remote_code = true": ("is not run",),
    "[training]\nweight_decay = true": ("training.weight_decay must be a number", "True"),
    '[training]\nweight_decay = "0.1"': ("training.weight_decay must be a number",),
    "[training]\ndataloader_num_workers = 1.0": ("a whole number",),
    '[training]\nlr_scheduler_type = "cosin"': ("Did you mean cosine",),
    '[training]\nreport_to = "wandb"': ("sends data out", "--hub"),
    '[training]\nreport_to = ["tensorboard", "wandb"]': ("sends data out",),
    "[training]\npush_to_hub = true": ("sends data out",),
    '[training]\nhub_token = "hf_x"': ("cannot be set", "manifest"),
    '[training]\neval_strategy = "steps"': ("eval",),
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_mistake_in_the_file_is_named(run, text):
    Path("bad.toml").write_text(text)
    rest = ("--model", "model", "--data", "pairs.jsonl", "--objective", "simpo", "--out", "out")
    refuses(run("llm", "train", "bad.toml", *rest), 2, *BROKEN[text])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = 1\x00", b"x = " + b"[" * 3000])
def test_a_file_that_is_no_text_is_refused(run, content):
    Path("bad.toml").write_bytes(content)
    refuses(run("llm", "train", "bad.toml", "--out", "out"), 2, "bad.toml")


def test_a_file_with_a_byte_order_mark_is_read(run):
    Path("config.toml").write_bytes(b"\xef\xbb\xbf" + CONFIG.encode())
    assert planned(run, "config.toml", "--out", "out")["config"]["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nosuch.toml",), 2, "no file nosuch.toml"),
        (("model",), 2, "no file model"),
        (("config.toml", "--model", "nosuch", "--out", "out"), 4, "no folder nosuch"),
        (("config.toml", "--reference", "nosuch", "--out", "out"), 4, "no folder nosuch"),
        (("config.toml", "--data", "nosuch", "--out", "out"), 4, "no file nosuch"),
        (("config.toml", "--objective", "dop", "--out", "out"), 2, "Did you mean dpo"),
        (("config.toml", "--out", "model"), 2, "is where the model lies"),
        (("config.toml",), 2, "--out"),
        (("--out", "out"), 2, "--model"),
        (("config.toml", "--out", "out", "-S", "beta"), 2, "NAME=VALUE"),
        (("config.toml", "--out", "out", "--learning-rate", "1,5"), 2, "decimal point"),
    ],
)
def test_a_mistake_of_the_command_line_is_named(run, arguments, code, said):
    refuses(run("llm", "train", *arguments), code, said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bfloat16_without_a_gpu_is_refused_unless_it_is_meant(run):
    refuses(run("llm", "train", "config.toml", "--out", "out", "--dtype", "bfloat16"), 2, "without a GPU", "use_cpu")
    Path("config.toml").write_text(CONFIG + "use_cpu = true\n")
    told = trained(run, "config.toml", "--out", "out", "--dtype", "bfloat16", "--steps", 1)
    assert told["log"][0]["displacement/chosen"] == 0.0
    assert {part.dtype for part in weights("out").values()} == {torch.float32}


def test_what_sends_data_out_is_taken_with_hub():
    for name, value in {"report_to": "wandb", "push_to_hub": True, "trackio_space_id": "me/it"}.items():
        check_training({name: value}, hub=True)
        with pytest.raises(ValueError, match="--hub"):
            check_training({name: value})
    check_training({"report_to": "tensorboard", "push_to_hub": False})


def test_every_field_at_its_default_is_taken_or_refused_with_a_reason():
    taken = []
    for field in dataclasses.fields(DPOConfig):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is None or value is dataclasses.MISSING:
            continue
        if field.name in {*OWNED, *UNUSED, *UNREAD}:
            with pytest.raises(ValueError, match=r"here: set|cannot be set: |own losses only"):
                check_training({field.name: value})
        else:
            check_training({field.name: value})
            taken.append(field.name)
    assert {"optim", "weight_decay", "warmup_steps", "save_steps", "report_to", "disable_dropout"} <= set(taken)
    assert len(taken) > 60


# --- the machine ------------------------------------------------------------------------------------------


def test_a_missing_extra_is_named_in_one_line(run, monkeypatch):
    for name in [name for name in sys.modules if name == "didsim.llm" or name.startswith("didsim.llm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("llm", "train", "config.toml", "--out", "out")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == "Error: Language models need trl: pip install 'didsim[llm]'\n"


def test_processes_that_do_not_know_of_each_other_are_stopped():
    alone = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))
    check_processes(alone, 1)
    with pytest.raises(ResourceError, match="2 processes were started, of which the trainer sees 1"):
        check_processes(alone, 2)


@functools.cache
def _environment():
    paths = {"PYTHONPATH": str(Path(didsim.__file__).parents[1])}
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def test_two_processes_are_one_with_twice_the_batch(run, here):
    arguments = ["llm", "train", "config.toml", "--out", "two", "--json", "--steps", "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launch += ["--rdzv-endpoint=localhost:0", "-m", "didsim"]
    done = subprocess.run(
        [*launch, *arguments], capture_output=True, text=True, timeout=300, env=_environment(), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two, one = document(done.stdout), trained(run, "config.toml", "--out", "one", "--batch-size", 8, "--steps", 2)
    assert (two["processes"], one["processes"]) == (2, 1)
    assert [row["loss"] for row in two["log"]] == pytest.approx([row["loss"] for row in one["log"]], rel=1e-5)
    parts = weights("one")
    assert all(torch.allclose(part, parts[name], atol=1e-5) for name, part in weights("two").items())


def test_nobody_is_told_of_a_run(here, monkeypatch):
    sent = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **told: sent.append(told))
    monkeypatch.delenv("CI", raising=False)
    trainer_of("dpo", here / "ours")
    assert sent == []
    trainer_of(None, here / "trls", reference=reference_model())
    assert len(sent) == 1  # TRL's own trainer does
