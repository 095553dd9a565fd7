"""Folders of Hugging Face and GGUF files of cut models, read back by the programs they are for."""

import json

import pytest
import torch

import secateur as sc
from secateur.errors import ExportError

transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
TOKENS = {"input_ids": torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))}


@pytest.fixture
def llama():
    config = transformers.AutoConfig.for_model("llama", **TINY)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def cut(model, **words):
    return sc.prune(model, TOKENS, ratio=0.5, check=False, **words)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_save_pretrained_of_a_uniform_cut_loads_as_it_is(llama, tmp_path):
    result = cut(llama, uniform=True)
    result.model.save_pretrained(tmp_path)
    opened, told = type(llama).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(opened.eval()(**TOKENS).logits, result.model(**TOKENS).logits)
    written = config_of(tmp_path)
    assert written["hidden_size"] % written["num_attention_heads"] == 0
    assert written["intermediate_size"] < 48
    assert written["num_key_value_heads"] == 1
    assert llama.config.intermediate_size == 48


def test_a_uniform_folder_needs_no_code(llama, tmp_path):
    made = sc.export(cut(llama, uniform=True), tmp_path / "cut", format="hf")
    assert made.error == 0
    assert made.reader.startswith("transformers")
    assert not list((tmp_path / "cut").glob("*.py"))


def test_uneven_widths_bring_code_along(llama, tmp_path):
    made = sc.export(cut(llama), tmp_path / "cut", format="hf")
    assert made.error == 0
    assert "trust_remote_code=True" in " ".join(made.notes)
    written = config_of(tmp_path / "cut")
    assert written["architectures"] == ["CutLlamaForCausalLM"]
    assert "secateur" not in (tmp_path / "cut" / "modeling_cut.py").read_text()
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # never a layer at random
        type(llama).from_pretrained(tmp_path / "cut")


def test_a_dropped_layer_is_renumbered_in_the_folder(llama, tmp_path):
    dropped = sc.drop_blocks(llama, TOKENS, blocks=["model.layers.0"], check=False)
    sc.export(cut(dropped.model, uniform=True), tmp_path / "cut", format="hf")
    assert config_of(tmp_path / "cut")["num_hidden_layers"] == 1


def test_a_folder_of_other_numbers_is_refused(llama, tmp_path, monkeypatch):
    from secateur.domains.transformers import folder

    monkeypatch.setattr(folder, "differences", lambda model: ({}, {}))  # as if a config said uneven widths
    with pytest.raises(ExportError, match="cannot be read back"):
        sc.export(cut(llama), tmp_path / "cut", format="hf")
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize("words", [{"uniform": True}, {}], ids=["arch llama", "arch deci"])
def test_llama_cpp_computes_the_logits_of_a_gguf_file(llama, tmp_path, words):
    pytest.importorskip("cyllama")
    made = sc.export(cut(llama, **words), tmp_path / "cut.gguf")
    assert made.reader.startswith("llama.cpp")
    assert made.error < 1e-5
    assert any("round_to=256" in note for note in made.notes)


def test_gguf_refuses_what_llama_cpp_does_not_compute(tmp_path):
    config = transformers.AutoConfig.for_model("mistral", **TINY, sliding_window=4)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ExportError, match=r"a sliding window is not what llama\.cpp computes"):
        sc.export(model, tmp_path / "cut.gguf", example_inputs=TOKENS)
