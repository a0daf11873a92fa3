"""Models in folders, of adapters, on the hub and in memory: found, told apart, refused, loaded."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, T5Config

from ntps_lightning.errors import SetupError
from ntps_lightning.prescreening.content import module_id
from ntps_lightning.prescreening.models import IN_MEMORY, find_model
from tests.prescreening.tiny import adapters_folder, llama, llama_folder, word_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return llama_folder(tmp_path / "model")


def states(model, tokenizer):
    batch = tokenizer("the team won a match", return_tensors="pt")
    with torch.no_grad():
        return model(**batch, output_hidden_states=True).hidden_states[-1]


def refused(source, match):
    with pytest.raises(SetupError, match=match) as caught:
        find_model(source)
    assert "\n" not in str(caught.value)


def test_a_folder_is_loaded_as_it_was_saved(folder):
    source = find_model(str(folder))
    model, tokenizer = source.load(CPU)
    assert (source.name, type(model), model.training) == (str(folder), LlamaForCausalLM, False)
    assert states(model, tokenizer).equal(states(llama(), word_tokenizer()))
    assert next(source.load(CPU, "bfloat16")[0].parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("labels", [None, 5])
def test_adapters_are_on_their_base(folder, tmp_path, labels):
    adapters = adapters_folder(tmp_path / "adapters", folder, labels)
    model, tokenizer = find_model(adapters).load(CPU)
    base = states(llama(), word_tokenizer())
    found = model.get_base_model()
    batch = tokenizer("the team won a match", return_tensors="pt")
    with torch.no_grad():
        adapted = found.model(**batch).last_hidden_state
        with model.disable_adapter():
            plain = found.model(**batch).last_hidden_state
    assert plain.equal(base)
    assert (adapted - base).abs().max() > 0.01


def test_the_content_tells_models_apart(folder, tmp_path):
    plain = find_model(folder).model_id
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("of no account")
    torch.save({}, copy / "optimizer.pt")
    assert find_model(copy).model_id == plain
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert find_model(copy).model_id != plain, "a byte in the middle"
    adapters = adapters_folder(tmp_path / "adapters", folder)
    on_base = find_model(adapters).model_id
    assert on_base != plain
    shutil.copy(weights, folder / "model.safetensors")
    assert find_model(adapters).model_id != on_base, "the same adapters on another base"


def test_large_files_of_the_hubs_cache_are_told_by_their_names(folder, tmp_path):
    name = "0" * 64
    cached = tmp_path / "cached"
    shutil.copytree(folder, cached)
    (tmp_path / "blobs").mkdir()
    (cached / "model.safetensors").rename(tmp_path / "blobs" / name)
    (cached / "model.safetensors").symlink_to(tmp_path / "blobs" / name)
    first = find_model(cached).model_id
    (tmp_path / "blobs" / name).write_bytes(b"not read")
    assert find_model(cached).model_id == first


def test_a_model_in_memory_comes_with_its_tokenizer():
    model, tokenizer = llama(), word_tokenizer()
    source = find_model((model, tokenizer))
    assert (source.name, source.in_memory, source.load(CPU)[0] is model) == ("LlamaForCausalLM", True, True)
    assert find_model((model, tokenizer), hashed=False).model_id == IN_MEMORY
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-3
    assert find_model((model, tokenizer)).model_id != source.model_id
    refused(model, r"comes with its tokenizer: give \(LlamaForCausalLM, tokenizer\)")
    refused((model, "folder"), "got a str beside it")
    refused(3, "got a int")


def test_adapters_in_memory_are_told_apart_by_what_they_do(folder):
    def adapted(alpha):
        torch.manual_seed(0)
        base = LlamaForCausalLM.from_pretrained(folder)
        return get_peft_model(base, LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj"]))

    model = adapted(4)
    wanted = module_id(model)
    assert module_id(adapted(4)) == wanted
    assert module_id(adapted(64)) != wanted
    with model.disable_adapter():
        assert module_id(model) != wanted
    model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj"]))
    with_other = module_id(model)
    model.set_adapter("other")
    assert module_id(model) != with_other


def test_what_is_no_model_is_refused_in_one_line(folder, tmp_path, monkeypatch):
    refused(tmp_path, "has no config.json")
    refused(folder / "config.json", "is a file")
    refused("./nowhere/at/all", "there is no folder ./nowhere/at/all")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/nothing", "cannot be reached from here, if that is a hub id")


def test_what_its_files_tell_is_refused_before_it_is_loaded(folder, tmp_path):
    T5Config().save_pretrained(tmp_path / "t5")
    (tmp_path / "t5" / "model.safetensors").touch()
    refused(tmp_path / "t5", "is an encoder-decoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard"}))
    refused(folder, "knows no model_type 'unheard'")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard", "auto_map": {}}))
    refused(folder, "brings code of its own, which is not run")
    own = {"auto_map": {"AutoModelForCausalLM": "code.OwnLlama"}}
    (folder / "config.json").write_text(json.dumps(config | own | {"architectures": ["OwnLlama"]}))
    refused(folder, r"model \(model_type 'llama'\) brings code of its own, which is not run")
    (folder / "config.json").write_text(json.dumps(config | own))
    assert find_model(folder), "the library's own class is used"
    (folder / "config.json").write_text(json.dumps(config))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    refused(folder, "holds no tokenizer")
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no weights")


def test_adapters_that_do_not_fit_are_no_base_in_disguise(folder, tmp_path):
    adapters = adapters_folder(tmp_path / "adapters", folder)
    llama(num_hidden_layers=3).save_pretrained(folder)
    with pytest.raises(SetupError, match="do not fit"):
        find_model(adapters).load(CPU)
    config = json.loads((adapters / "adapter_config.json").read_text())
    (adapters / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    refused(adapters, "prompt and prefix tuning put virtual tokens")
    (adapters / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    refused(adapters, "names no base_model_name_or_path")


def renamed_weights(folder, rename):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {rename(name): weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def test_weights_that_are_not_there_are_not_made_up(folder, tmp_path):
    adapters = adapters_folder(tmp_path / "adapters", folder)
    renamed_weights(folder, lambda name: f"_orig_mod.{name}")
    for source in (folder, adapters):
        with pytest.raises(
            SetupError, match=r"weights of LlamaForCausalLM, such as model.*; it has (model\.)?_orig_mod"
        ):
            find_model(source).load(CPU)


def test_a_head_may_be_new(folder):
    renamed_weights(folder, lambda name: name.replace("lm_head", "of_another"))
    model, tokenizer = find_model(folder).load(CPU)
    assert states(model, tokenizer).equal(states(llama(), word_tokenizer()))


def test_a_tokenizers_code_is_neither_run_nor_asked_about(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked whether to run code"))
    ran = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own:\n    pass\n")
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["code.Own", None]}}
    path.write_text(json.dumps(content))
    assert find_model(folder), "the library's own class is used"
    path.write_text(json.dumps(content | {"tokenizer_class": "Own"}))
    (folder / "tokenizer.json").unlink()
    refused(folder, "the tokenizer of .*model brings code of its own, which is not run")
    assert not ran.exists()


def test_an_id_is_found_in_the_cache_of_the_hubs_client(folder, tmp_path, monkeypatch):
    """Laid out as it lays out what it has fetched."""
    place, commit = tmp_path / "hub" / "models--some--one", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source, same = find_model("some/one"), find_model(str(folder))
    assert (source.name, source.model_id) == ("some/one", same.model_id)
    assert torch.equal(states(*source.load(CPU, "auto")), states(*same.load(CPU, "auto")))
