"""The code that lies beside weights whose widths no config says."""

import copy
import os

import pytest
import torch

import secateur as sc
from secateur.domains.transformers.folder import auto_classes, write_folder
from secateur.errors import ExportError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

TOKENS = {"input_ids": torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))}
TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def modules_of_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def tiny(kind, auto, **more):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TINY, **more})
    return getattr(transformers, auto).from_config(config).eval()


def opened(folder, auto):
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()


def written(model, folder):
    return write_folder(copy.deepcopy(model), folder)


def widths(model):
    """Query and value heads of different widths: code of the attention is corrected."""
    name = "bert.encoder.layer.0.attention.self.query#2"
    return sc.prune(model, TOKENS, channels={name: 0.5}, axes="widths")


def test_corrected_methods_lie_in_the_folder(tmp_path):
    result = widths(tiny("bert", "AutoModelForSequenceClassification"))
    corrected = [
        type(part).__name__ for part in result.model.modules() if hasattr(type(part), "_pruned_from")
    ]
    assert corrected == ["BertSelfAttention"]
    made = sc.export(result, tmp_path / "cut", format="hf")
    assert made.error == 0
    text = (tmp_path / "cut" / "modeling_cut.py").read_text()
    assert "def _BertSelfAttention_forward" in text
    assert "secateur" not in text


def test_a_wrong_number_of_corrected_code_is_refused(tmp_path, monkeypatch):
    result = widths(tiny("bert", "AutoModelForSequenceClassification"))
    monkeypatch.setattr("secateur.domains.transformers.remote.numbers_of", lambda module: {"_pruned_0": 16})
    with pytest.raises(ExportError, match="cannot be read back"):
        sc.export(result, tmp_path / "cut", format="hf")
    assert not (tmp_path / "cut").exists()


def test_a_model_of_such_a_folder_is_cut_further(tmp_path):
    first = sc.prune(tiny("llama", "AutoModelForCausalLM"), TOKENS, ratio=0.3, check=False)
    assert written(first.model, tmp_path / "one").is_remote
    model = opened(tmp_path / "one", "AutoModelForCausalLM")
    second = sc.prune(model, TOKENS, ratio=0.3)
    assert second.verdict.passed
    assert written(second.model, tmp_path / "two").is_remote
    again = opened(tmp_path / "two", "AutoModelForCausalLM")
    assert again.num_parameters() < model.num_parameters()
    assert torch.equal(again(**TOKENS).logits, second.model(**TOKENS).logits)
    assert sc.export(again, tmp_path / "three", format="hf", example_inputs=TOKENS).error == 0


def test_cut_further_code_that_was_corrected_is_refused(tmp_path):
    result = widths(tiny("bert", "AutoModelForSequenceClassification"))
    written(result.model, tmp_path / "one")
    model = opened(tmp_path / "one", "AutoModelForSequenceClassification")
    assert written(model, tmp_path / "same").is_remote  # as it is
    again = opened(tmp_path / "same", "AutoModelForSequenceClassification")
    assert torch.equal(again(**TOKENS).logits, result.model(**TOKENS).logits)
    second = sc.prune(model, TOKENS, channels={"bert.encoder.layer.1.intermediate.dense": 0.5})
    with pytest.raises(ExportError, match="corrected code, and was cut again"):
        written(second.model, tmp_path / "two")


def test_a_class_that_no_auto_class_knows_is_opened_by_the_most_general_one(tmp_path):
    config = transformers.CLIPTextConfig(**TINY, projection_dim=8, bos_token_id=0)
    model = transformers.CLIPTextModelWithProjection(config).eval()
    assert auto_classes(model) == ["AutoModel"]
    made = sc.export(sc.prune(model, TOKENS, ratio=0.4), tmp_path / "cut", format="hf")
    assert made.error == 0
    assert any("AutoModel.from_pretrained" in note for note in made.notes)


def test_names_that_transformers_gives_checkpoints_of_its_own_classes(tmp_path):
    model = tiny("gpt_neox", "AutoModelForCausalLM")  # lm_head is embed_out in its checkpoints
    result = sc.prune(model, TOKENS, ratio=0.4)
    assert written(result.model, tmp_path / "cut").is_remote
    again = opened(tmp_path / "cut", "AutoModelForCausalLM")
    assert torch.equal(again(**TOKENS).logits, result.model(**TOKENS).logits)


class Mine(torch.nn.Module):
    pass


def test_a_class_of_ones_own_is_refused(tmp_path):
    class Own(transformers.BertModel):
        pass

    model = Own(transformers.AutoConfig.for_model("bert", **TINY))
    with pytest.raises(ExportError, match="Own is no class of transformers"):
        written(model, tmp_path / "cut")
    with pytest.raises(ExportError, match="Mine is no model of transformers"):
        written(Mine(), tmp_path / "cut")
