"""A folder or file that came from elsewhere brings no code along: a trap lies behind every way in."""

import json
import pickle
import shlex
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError, SecateurError, SourceError
from secateur.plans.making import identity_plan
from secateur.sources import build, open_model
from secateur.write.checkpoint import read_state, save_model
from secateur.write.shards import INDEX, open_shards

FACTORY = "def model():\n    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))\n"


@pytest.fixture
def evil(trap):
    """The text of a file that works as a source, and springs the trap."""
    return f"from pathlib import Path\nfrom torch import nn\nPath({str(trap)!r}).touch()\n{FACTORY}"


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("bundle/helper.py", "bundle/helper.py:model"),
        ("bundle/.py", "bundle/.py:model"),
        ("bundle/helper.py", "bundle/helper.py"),
        ("beside/evil.py", "beside/evil.py:model"),
        ("evil.py", "bundle/../evil.py:model"),
        ("evil.py", "evil.py:model"),
        ("bundle/evil.py", "{absolute}:model"),
    ],
)
def test_a_plan_never_has_a_file_run(tmp_path, monkeypatch, evil, place, source, forged):
    monkeypatch.chdir(tmp_path)
    forged("bundle", source.format(absolute=tmp_path / place))
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text(evil)
    with pytest.raises(SourceError, match="its plan asks to run") as refused:
        open_model("bundle")
    assert "code runs only from a file that you name yourself" in str(refused.value)
    assert ("the file came with the folder" in str(refused.value)) == place.startswith("bundle/")


@pytest.mark.parametrize("previous", [False, True])
def test_a_file_behind_a_link_or_in_an_earlier_plan_is_not_run(tmp_path, monkeypatch, evil, previous, forged):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(evil)
    folder = forged("bundle", "evil.py:model")
    if previous:
        first = sc.plans.plan.Plan.from_json((folder / "plan.json").read_bytes())
        small = first.apply(net())
        second = sc.prune(small, torch.zeros(1, 4), ratio=0.5)
        save_model(second.model, second.plan.after(first), folder)
    Path("link").symlink_to(folder)
    with pytest.raises(SourceError):
        open_model("link")


def test_a_name_that_would_move_the_cursor_is_not_printed(tmp_path, evil, forged):
    folder = forged(tmp_path / "bundle", "\x1b[2Jevil.py:model")
    with pytest.raises(CheckpointError, match=r"its plan names '\\x1b\[2Jevil\.py:model'") as refused:
        open_model(str(folder))
    assert "\x1b" not in str(refused.value)


def test_a_file_that_is_named_again_runs_and_gets_the_arguments_of_the_plan(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(width=4):\n"
        "    return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))\n"
    )
    word = f"{tmp_path}/net.py:make"
    first = open_model(word, {"width": 8})
    folder = save_model(first.model, first.plan, tmp_path / "a@b")
    again = open_model(f"{folder}@{word}")
    assert torch.equal(again.model[0].weight, first.model[0].weight)
    assert again.plan == first.plan
    with pytest.raises(SourceError, match=r"name it too: .*a@b@.*net\.py:make"):
        open_model(str(folder))


def test_only_the_named_file_runs_not_the_one_that_the_plan_names(tmp_path, evil, forged):
    (tmp_path / "evil.py").write_text(evil)
    (tmp_path / "mine.py").write_text(f"from torch import nn\n{FACTORY}")
    folder = forged(tmp_path / "bundle", f"{tmp_path}/evil.py:model")
    opened = open_model(f"{folder}@{tmp_path}/mine.py:model")
    assert opened.model[0].out_features == 4


@pytest.mark.parametrize(
    "source",
    [
        "os:system",
        "secateur.zoo:models",
        "zoo:__class__",
        "torchvision:os",
        "bundle",
        "evil:model",
        ".:model",
    ],
)
def test_a_word_is_no_import_path(tmp_path, monkeypatch, evil, source, forged):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forged("bundle", source)
    Path("evil.py").write_text(evil)
    with pytest.raises(CheckpointError, match="cannot be built"):
        open_model("bundle")


def test_pretrained_weights_of_a_library_are_not_fetched_for_a_folder(tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("something was downloaded")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    word = "torchvision:shufflenet_v2_x0_5"
    model = build(word, {}).model
    plan = identity_plan(model, word, {"weights": "IMAGENET1K_V1"})
    opened = open_model(str(save_model(model, plan, tmp_path / "bundle")))
    assert torch.equal(opened.model.conv1[0].weight, model.conv1[0].weight)
    assert build("torchvision:lraspp_mobilenet_v3_large", {}).input_shape == (1, 3, 224, 224)


OUTSIDE = ["../outside.safetensors", "{absolute}", "..", ".", "", "sub/in.safetensors", "a/../b"]


def index_of(folder, name):
    """A checkpoint whose index places one tensor in a file of some name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"t0": name}}))


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_no_file_of_another_folder(tmp_path, name):
    save_file({"t0": torch.ones(1)}, tmp_path / "outside.safetensors")
    index_of(tmp_path / "checkpoint", name.format(absolute=tmp_path / "outside.safetensors"))
    with pytest.raises(CheckpointError, match="no file beside it"):
        open_shards(tmp_path / "checkpoint")


def test_an_index_names_no_link_out_of_its_folder(tmp_path):
    save_file({"t0": torch.ones(1)}, tmp_path / "outside.safetensors")
    index_of(tmp_path / "checkpoint", "in.safetensors")
    (tmp_path / "checkpoint" / "in.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(CheckpointError, match=r"names in\.safetensors, a link to .*outside\.safetensors"):
        read_state(tmp_path / "checkpoint")


def test_the_links_of_the_hub_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    index_of(blobs, "model-1.safetensors")
    save_file({"t0": torch.ones(1)}, blobs / "f00d")
    (blobs / INDEX).rename(blobs / "cafe")
    snapshot.mkdir(parents=True)
    (snapshot / INDEX).symlink_to(blobs / "cafe")
    (snapshot / "model-1.safetensors").symlink_to(blobs / "f00d")
    assert list(open_shards(snapshot)) == ["t0"]


def test_a_run_points_to_no_other_folder(tmp_path):
    from secateur.train import last_folder

    (tmp_path / "run").mkdir()
    (tmp_path / "epoch-0001").mkdir()
    for name in ("../epoch-0001", str(tmp_path / "epoch-0001"), "epoch-0001/../../epoch-0001", "."):
        (tmp_path / "run" / "checkpoints.json").write_text(json.dumps({"last": name, "best": name}))
        with pytest.raises(CheckpointError, match="names no checkpoint"):
            last_folder(tmp_path / "run")


@pytest.mark.parametrize("name", ["weights.pth", "weights"])
def test_a_pickle_with_more_than_tensors_is_refused_under_every_name(tmp_path, name, bomb):
    torch.save({"a": torch.ones(1), "b": bomb}, tmp_path / name)
    with pytest.raises(CheckpointError, match="a pickle is never executed"):
        read_state(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps({"b": bomb}))
    with pytest.raises(CheckpointError):
        read_state(tmp_path / name)


def test_a_pickle_in_the_place_of_the_weights_is_refused(tmp_path, forged, bomb):
    folder = forged(tmp_path / "bundle", "")
    torch.save({"b": bomb}, folder / "weights.safetensors")
    with pytest.raises(CheckpointError):
        sc.load(folder, net())


@pytest.mark.parametrize(
    "attributes",
    [{"__class__": 3}, {"__dict__": 3}, {"forward.__globals__": 3}, {"_modules.x": 3}, {"a.b.c": 3}],
)
def test_the_attributes_of_a_plan_reach_no_code(tmp_path, attributes, forged):
    folder = forged(tmp_path / "bundle", "")
    plan = json.loads((folder / "plan.json").read_text())
    plan["attributes"][""] = attributes
    (folder / "plan.json").write_text(json.dumps(plan))
    tensors = load_file(folder / "weights.safetensors")
    save_file(tensors, folder / "weights.safetensors")  # a forger leaves the hash out
    forward = nn.Sequential.forward
    with pytest.raises(SecateurError):
        sc.load(folder, net())
    assert nn.Sequential.forward is forward


def test_the_command_line_says_the_very_command_to_run(tmp_path, capsys, forged):
    from secateur.cli import main

    (tmp_path / "my net.py").write_text(f"from torch import nn\n{FACTORY}")
    folder = forged(tmp_path / "bundle", f"{tmp_path}/my net.py:model")
    words = ["inspect", str(folder), "--input", "1,4", "--json"]
    with pytest.raises(SystemExit, match="1"):
        main(words)
    printed = capsys.readouterr()
    assert printed.out == ""
    *_, last = printed.err.strip().splitlines()
    again = shlex.split(last)
    assert again == ["secateur", "inspect", f"{folder}@{tmp_path}/my net.py:model", *words[2:]]
    with pytest.raises(SystemExit, match="0"):
        main(again[1:])
    assert json.loads(capsys.readouterr().out)["params"] == 4 * 4 + 4 + 4 * 2 + 2


def test_an_archive_that_says_it_lies_on_two_disks_is_refused(tmp_path):
    """Python's own zipfile raises on it where it is only asked whether this is an archive."""
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2)
    (tmp_path / "w.pth").write_bytes(b"damaged head " + bytes(40) + locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(CheckpointError, match=r"cannot load .*w\.pth"):
        read_state(tmp_path / "w.pth")
