"""Folders and names of other libraries bring no code along either."""

import json
import pickle
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.errors import CheckpointError, RequestError
from secateur.sources import build, open_model
from secateur.sources.kinds.hf import _ELSEWHERE, _FIXED
from secateur.write.shards import INDEX


@pytest.mark.parametrize("asked", ["checkpoint_path", "pretrained_cfg", "cache_dir"])
def test_timm_loads_nothing(tmp_path, monkeypatch, asked, forged, bomb):
    class Timm:
        @staticmethod
        def create_model(name, **given):
            torch.load(given.get(asked), weights_only=False)

    monkeypatch.setitem(sys.modules, "timm", Timm)
    torch.save({"state_dict": bomb}, tmp_path / "extra.pth")
    folder = forged(tmp_path / "bundle", "timm:resnet10t", {asked: str(tmp_path / "extra.pth")})
    with pytest.raises(CheckpointError, match=f"timm:resnet10t would load {asked}"):
        open_model(str(folder))
    for name in ("hf-hub:someone/model", "local-dir:/tmp/model", "someone/model"):
        with pytest.raises(RequestError, match=f"would load {name}"):
            build(f"timm:{name}", {})


class _Config:
    def __init__(self, content):
        self.__dict__.update(content)


class _Transformers:
    """Stands in for transformers: what it is told is tested. The real one is tried below, if installed."""

    told: ClassVar[dict] = {}

    class PreTrainedModel(nn.Linear):
        config = None

        @classmethod
        def from_pretrained(cls, folder, **given):
            _Transformers.told = given
            return cls(2, 2)

        @classmethod
        def _from_config(cls, config, **given):
            _Transformers.told = given
            return cls(2, 2)

    class BertModel(PreTrainedModel):
        pass

    class AutoModel:
        @staticmethod
        def from_config(config, **given):
            _Transformers.told = given
            return _Transformers.BertModel(2, 2)

        @staticmethod
        def from_pretrained(folder, **given):
            _Transformers.told = given
            return _Transformers.BertModel(2, 2)

    class AutoConfig:
        @staticmethod
        def from_pretrained(folder, **given):
            assert given == {"local_files_only": True, "trust_remote_code": False}
            return _Config(json.loads(Path(folder, "config.json").read_text()))

    @staticmethod
    def pipeline():
        raise AssertionError("it is no model class")

    __version__ = "0"


@pytest.fixture
def hf(tmp_path, monkeypatch):
    """Make a folder of transformers; None for its weights leaves them out."""
    monkeypatch.setitem(sys.modules, "transformers", _Transformers)
    _Transformers.told = {}

    def made(config=None, weights=("model.safetensors",)):
        folder = tmp_path / "hf"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config or {"architectures": ["BertModel"]}))
        for name in weights or ():
            save_file({"a": torch.ones(1)}, folder / name)
        return folder

    return made


@pytest.mark.parametrize("weights", [("model.safetensors",), None])
@pytest.mark.parametrize("architectures", [["BertModel"], []])
def test_transformers_is_told_last_that_no_code_is_trusted(hf, weights, architectures):
    folder = hf({"architectures": architectures}, weights)
    build(f"hf:{folder}", {"trust_remote_code": False, "local_files_only": True})
    told = _Transformers.told
    if weights:
        assert {name: told[name] for name in _FIXED} == _FIXED
    else:
        assert not told.get("trust_remote_code", False)
        assert ("trust_remote_code" in told) == (not architectures)


@pytest.mark.parametrize(
    "asked",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": 1.5},
        {"local_files_only": False},
        {"use_safetensors": False},
        {"subfolder": "../other"},
        {"attn_implementation": "someone/kernel"},
        {"attn_implementation": "flash_attention_2"},
        *({name: "x"} for name in _ELSEWHERE),
    ],
)
@pytest.mark.parametrize("weights", [("model.safetensors",), None])
def test_a_plan_cannot_ask_transformers_for_code(hf, tmp_path, asked, weights, forged):
    folder = forged(tmp_path / "bundle", f"hf:{hf(weights=weights)}", asked)
    with pytest.raises(CheckpointError, match=f"is asked for {next(iter(asked))}="):
        open_model(str(folder))
    assert _Transformers.told == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["Evil"], "auto_map": {"AutoModel": "evil.Evil"}}, "names 'Evil'"),
        ({"architectures": ["pipeline"]}, "names 'pipeline', which is no model class"),
        ({"architectures": ["__version__"]}, "names '__version__'"),
        ({"architectures": ["AutoConfig"]}, "names 'AutoConfig'"),
        ({"architectures": ["BertModel"], "attn_implementation": "someone/kernel"}, "a kernel from the Hub"),
        ({"architectures": ["BertModel"], "_attn_implementation": {"": "a/b"}}, "a kernel from the Hub"),
        ({"architectures": ["BertModel"], "text_config": {"experts_implementation": "a/b"}}, "a kernel"),
        ({"architectures": ["BertModel"], "transformers_weights": "sub/x.safetensors"}, "another folder"),
    ],
)
def test_a_config_cannot_ask_for_code(hf, config, message):
    with pytest.raises(RequestError, match=message):
        build(f"hf:{hf(config)}", {})
    assert _Transformers.told == {}


def test_an_adapter_and_a_pickle_are_refused(hf, bomb):
    folder = hf(weights=None)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(bomb))
    with pytest.raises(RequestError, match="as a pickle only"):
        build(f"hf:{folder}", {})
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(RequestError, match=r"adapter_config\.json, which names another model"):
        build(f"hf:{folder}", {})


def test_the_real_transformers_runs_no_code_of_a_folder(tmp_path, trap):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(**sizes, vocab_size=20, max_position_embeddings=32)
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    written = json.loads(path.read_text())
    written["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Config"}
    path.write_text(json.dumps(written))
    (tmp_path / "hf" / "evil.py").write_text(
        f"from pathlib import Path\nfrom transformers import BertModel as Evil, BertConfig as Config\n"
        f"Path({str(trap)!r}).touch()\n"
    )
    for architectures in (["BertModel"], []):
        path.write_text(json.dumps(written | {"architectures": architectures}))
        for arguments in ({}, {"weights": False}):
            assert type(build(f"hf:{tmp_path}/hf", arguments).model).__name__ == "BertModel"
    for changes in ({"architectures": ["Evil"]}, {"model_type": "evil"}):
        path.write_text(json.dumps(written | changes))
        with pytest.raises(RequestError):
            build(f"hf:{tmp_path}/hf", {})


@pytest.mark.parametrize("name", ["../outside.safetensors", "{absolute}", "in.safetensors"])
def test_an_index_for_transformers_names_no_file_of_another_folder(tmp_path, hf, name):
    folder, outside = hf(weights=None), tmp_path / "outside.safetensors"
    save_file({"t0": torch.ones(1)}, outside)
    placed = {"t0": name.format(absolute=outside)}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (folder / "in.safetensors").symlink_to(outside)
    with pytest.raises(CheckpointError, match=r"no file beside it|a link to"):
        build(f"hf:{folder}", {})
    assert _Transformers.told == {}
