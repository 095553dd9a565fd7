"""Folders of Hugging Face and GGUF files of cut models, read back by the programs they are for."""

import json

import pytest
import torch

import secateur as sc
from secateur.domains.transformers.folder import write_folder
from secateur.errors import ExportError, RequestError
from secateur.exports import require_exportable

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

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


@pytest.mark.parametrize(
    ("format", "kind", "uniform", "reason"),
    [
        ("gguf", "llama", False, ""),
        ("gguf", "qwen3", True, ""),
        ("gguf", "qwen3", False, "one width for all layers\\n  prune with uniform=True"),
        ("gguf", "gpt_neox", True, "is not written as GGUF"),
        ("hf", "gpt_neox", False, ""),
    ],
)
def test_what_no_file_can_hold_is_refused_before_the_cut(format, kind, uniform, reason):
    if format == "gguf":
        pytest.importorskip("gguf")
    config = transformers.AutoConfig.for_model(kind, **TINY)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if not reason:
        require_exportable(model, format, uniform=uniform)
        return
    with pytest.raises(ExportError, match=reason):
        require_exportable(model, format, uniform=uniform)


def test_adapters_and_other_tensors_are_refused_before_the_cut(llama):
    llama.model.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(ExportError, match="other tensors than its config builds"):
        require_exportable(llama, "hf")


def test_generate_that_fails_by_itself_is_told_of(tmp_path):
    words = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 2}
    config = transformers.AutoConfig.for_model("t5", vocab_size=61, decoder_start_token_id=0, **words)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    tokens = {**TOKENS, "decoder_input_ids": TOKENS["input_ids"]}
    made = sc.export(model, tmp_path / "t5", format="hf", example_inputs=tokens)
    assert made.error == 0
    assert any(
        note.startswith("generate(use_cache=True) fails with this model, in memory") for note in made.notes
    )


def test_what_no_config_says_names_the_request_that_fits():
    config = transformers.AutoConfig.for_model("bert", **TINY)
    model = transformers.AutoModel.from_config(config).eval()
    with pytest.raises(RequestError, match="no config says a smaller hidden_size") as refused:
        sc.prune(model, TOKENS, channels={"*query": 0.5}, uniform=True)
    assert refused.value.do == "leave uniform=True out, or leave the pattern out"
    with pytest.raises(RequestError, match="lift the protection"):
        sc.prune(model, TOKENS, channels={"*query": 0.5}, protect=["*query"])


@pytest.mark.parametrize("is_of_hub", [False, True], ids=["folder", "cache of the Hub"])
def test_tokenizer_and_generation_config_travel_along(llama, is_of_hub, tmp_path, monkeypatch):
    source = tmp_path / "uncut"
    if is_of_hub:
        commit = "0" * 40
        repository = tmp_path / "hub" / "models--some--llama"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        source = repository / "snapshots" / commit
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    llama.generation_config.update(max_new_tokens=7, repetition_penalty=1.5)
    llama.save_pretrained(source)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "cut": 1, "it": 2}, "<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(source)
    opened = transformers.AutoModelForCausalLM.from_pretrained(source)
    opened.config.name_or_path = "some/llama" if is_of_hub else str(source)
    written = write_folder(cut(opened.eval(), uniform=True).model, tmp_path / "cut")
    assert written.notes == ()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert again("cut it")["input_ids"] == [1, 2]
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "cut")
    assert (generation.max_new_tokens, generation.repetition_penalty) == (7, 1.5)


def test_a_model_that_came_from_nowhere_is_told_to_have_no_tokenizer(llama, tmp_path):
    llama.config.name_or_path = "some/repository-that-is-not-cached"
    assert "holds none here" in write_folder(llama, tmp_path / "one").notes[0]
    llama.config.name_or_path = ""
    assert "loaded from nowhere" in write_folder(llama, tmp_path / "two").notes[0]
