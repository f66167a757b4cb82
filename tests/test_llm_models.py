"""Reading models and tokenizers: from local folders and safetensors only, and nothing that comes with them is run."""

import json
import shutil

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import test_llm
import torch
from safetensors.torch import load_file, save_file
from test_llm import language_model, tokenizer

from didsim.errors import BadDataError
from didsim.llm import load_model, load_tokenizer

pytestmark = test_llm.pytestmark


@pytest.fixture
def folder(tmp_path):
    """A folder with a model and its tokenizer."""
    language_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refused(*_arguments, **_named):
        raise AssertionError("this went to the network")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_model_comes_back_as_it_was_saved(folder):
    want = language_model().state_dict()
    model = load_model(folder)
    assert not model.training
    assert all(torch.equal(weight, want[name]) for name, weight in model.state_dict().items())
    assert load_tokenizer(folder)("a b")["input_ids"] == tokenizer()("a b")["input_ids"]


def test_a_model_may_be_read_in_half_precision(folder):
    assert {weight.dtype for weight in load_model(folder, dtype="bfloat16").parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="dtype"):
        load_model(folder, dtype="float12")


@pytest.mark.parametrize("name", ["gpt2", "nobody/nothing", "no/such/folder"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_name_of_the_hub_is_not_looked_up_unless_asked(name, load):
    with pytest.raises(BadDataError, match="--hub"):
        load(name)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_and_not_unpickled(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb(tmp_path / "ran")}, folder / name)
    with pytest.raises(BadDataError, match="pickled"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_safetensors_is_not_opened(folder, tmp_path):
    torch.save(Bomb(tmp_path / "ran"), folder / "pytorch_model.bin")
    load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("load", "names"), [
    (load_model, {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
    (load_tokenizer, {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Tokenizer", None]}),
])  # fmt: skip
def test_code_that_comes_with_a_model_is_refused_and_not_run(folder, tmp_path, load, names):
    change(folder / "config.json", model_type="evil", auto_map=names)
    change(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=names)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BadDataError, match="code that comes with it"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:500])


def absurd_header(path):
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize("spoil", [truncate, absurd_header, lambda path: path.write_bytes(b"")])
def test_broken_safetensors_are_bad_data(folder, spoil):
    spoil(folder / "model.safetensors")
    with pytest.raises(BadDataError, match="cannot be read"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "nosuch"}'])
def test_a_broken_configuration_is_bad_data(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(BadDataError, match="cannot be read"):
        load_model(folder)


def test_weights_that_lack_a_part_are_bad_data(folder):
    rewrite(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(BadDataError, match=r"lacks weights: lm_head\.weight"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_bad_data(folder, value):
    def spoil(weights):
        weights["lm_head.weight"][0, 0] = value

    rewrite(folder, spoil)
    with pytest.raises(BadDataError, match="not finite"):
        load_model(folder)


def test_a_folder_without_a_tokenizer_is_bad_data(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadDataError, match="tokenizer"):
        load_tokenizer(folder)


def test_a_tokenizer_without_an_end_is_bad_data_and_one_without_padding_pads_with_its_end(folder):
    change(folder / "tokenizer_config.json", pad_token=None)
    found = load_tokenizer(folder)
    assert found.pad_token == found.eos_token
    change(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(BadDataError, match="end of sequence"):
        load_tokenizer(folder)


# --- adapters -----------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder, tmp_path):
    """A folder with an adapter for the model, and what the adapted model computes."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model(folder), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", adapted.eval()(torch.arange(4)[None]).logits


def test_an_adapter_is_read_with_its_base(adapter):
    path, want = adapter
    with torch.no_grad():
        assert torch.allclose(load_model(path)(torch.arange(4)[None]).logits, want, atol=1e-5)


def test_the_base_of_an_adapter_is_not_looked_up_on_the_hub_unless_asked(adapter):
    path, _ = adapter
    change(path / "adapter_config.json", base_model_name_or_path="gpt2")
    with pytest.raises(BadDataError, match=r"gpt2.*--hub"):
        load_model(path)


def test_a_pickled_adapter_is_refused(adapter, tmp_path):
    path, _ = adapter
    (path / "adapter_model.safetensors").unlink()
    torch.save({"weight": Bomb(tmp_path / "ran")}, path / "adapter_model.bin")
    with pytest.raises(BadDataError, match="pickled"):
        load_model(path)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_of_pickled_weights_is_refused(adapter, folder, tmp_path):
    path, _ = adapter
    shutil.copy(folder / "model.safetensors", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(BadDataError, match="pickled"):
        load_model(path)
    assert not (tmp_path / "ran").exists()
