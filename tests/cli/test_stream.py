"""`secateur stream`: a checkpoint on the disk is cut by a plan that another command or Python made."""

import json

import nets
import pytest
import torch
from safetensors.torch import load_file, save_file

import secateur as sc


@pytest.fixture
def half(tmp_path):
    """A saved half of a network; its uncut state lies beside it as `whole.safetensors`."""
    model = nets.randomise(nets.Residual())
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    result = sc.prune(model, torch.randn(2, 3, 6, 6), ratio=0.5, scope="local")
    sc.save(result, tmp_path / "half")
    return result


@pytest.mark.parametrize("word", ["half", "half/plan.json"])
def test_the_stream_holds_what_the_plan_keeps(half, tmp_path, run, word):
    outcome = run("stream", tmp_path / word, tmp_path / "whole.safetensors", tmp_path / "streamed", "--json")
    assert outcome.code == 0, outcome.err
    streamed = load_file(tmp_path / "streamed" / "model.safetensors")
    expected = half.model.state_dict()
    assert streamed.keys() == expected.keys()
    assert all(torch.equal(streamed[name], tensor) for name, tensor in expected.items())
    found = outcome.json
    assert found["tensors"] == len(expected)
    assert found["after_bytes"] < found["before_bytes"]
    assert found["folder"] == str(tmp_path / "streamed")
    loaded = sc.load(tmp_path / "streamed", nets.Residual())
    assert torch.equal(loaded.head.weight, half.model.head.weight)


def test_words_say_what_was_written(half, tmp_path, run):
    outcome = run("stream", tmp_path / "half", tmp_path / "whole.safetensors", tmp_path / "streamed")
    assert outcome.out.startswith(f"wrote {tmp_path / 'streamed'}: 17 tensors in 1 files")
    assert outcome.err == ""


def test_small_files_and_left_out_tensors_as_asked(half, tmp_path, run):
    state = load_file(tmp_path / "whole.safetensors") | {"old.table": torch.zeros(3)}
    save_file(state, tmp_path / "whole.safetensors")
    words = ("stream", tmp_path / "half", tmp_path / "whole.safetensors", tmp_path / "streamed")
    found = run(*words, "--max-shard-bytes", 500, "--drop", "old.*", "--json").json
    assert found["dropped"] == ["old.table"]
    index = json.loads((tmp_path / "streamed" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == found["files"] > 1


def test_what_cannot_be_streamed_is_one_clear_message(half, tmp_path, refuse):
    whole, streamed = tmp_path / "whole.safetensors", tmp_path / "streamed"
    assert "no such file" in refuse(1, "stream", tmp_path / "no.json", whole, streamed)
    assert "cannot read" in refuse(1, "stream", whole, whole, streamed)
    assert "no such file" in refuse(1, "stream", tmp_path / "half", tmp_path / "none", streamed)
    assert "exists already" in refuse(1, "stream", tmp_path / "half", whole, tmp_path / "half")
    message = refuse(2, "stream", tmp_path / "half", whole, streamed, "--max-shard-bytes", 0)
    assert "max_shard_bytes is 0" in message
    assert not streamed.exists()
