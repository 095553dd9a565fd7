"""`secateur sweep` on digits."""

import json

RESNET = (
    "zoo:resnet20",
    "--arg",
    "width=0.25",
    "--layer",
    "layer3.2.conv1",
    "--score-images",
    64,
    "--maps",
    4,
)


def test_the_sweep_tells_and_writes_every_row_and_goes_on(run, tmp_path):
    words = ("sweep", *RESNET, "--save", tmp_path, "--json", "--device", "cpu", "--batch-size", 180)
    first = run(*words, "--counts", "1,16")
    assert first.code == 0, first.err
    assert [row["count"] for row in first.json["rows"]] == [0, 1, 16]
    assert first.json["rows"][0]["per_class_accuracy"].keys() == {str(digit) for digit in range(10)}
    assert len(first.json["most_active"]) == 4
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "sweep.jsonl").read_text().splitlines()) == 4
    again = run(*words, "--counts", "1,3,16")
    assert again.err.splitlines() == [
        line for line in again.err.splitlines() if line.startswith("3 channels")
    ]
    assert [row["count"] for row in again.json["rows"]] == [0, 1, 3, 16]
    opening = json.loads((tmp_path / "sweep.jsonl").read_text().splitlines()[0])
    assert opening["layer"] == "layer3.2.conv1"


def test_layers_and_blocks(run, tmp_path):
    model = ("zoo:resnet20", "--arg", "width=0.125", "--criterion", "l1", "--batch-size", 180)
    found = run("sweep", *model, "--ratios", "0.5", "--blocks", "--save", tmp_path, "--json")
    assert found.code == 0, found.err
    assert len(found.json["blocks"]["rows"]) == 9
    assert "layer3.0.shortcut.0" in found.json["layers"]
    assert "nothing reads" in found.json["skipped"]["classifier"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"curves.jsonl", "curves.png", "blocks.jsonl", "blocks.png", "run.yaml"}


def test_groups_beside_layers_by_a_criterion_of_gradients(run, tmp_path):
    model = ("zoo:resnet20", "--arg", "width=0.125", "--batch-size", 180, "--score-images", 64)
    found = run(
        "sweep",
        *model,
        "--criterion",
        "taylor",
        "--ratios",
        0.5,
        "--by",
        "groups",
        "--save",
        tmp_path,
        "--json",
    )
    assert found.code == 0, found.err
    assert "layers" not in found.json
    assert [point["count"] for point in found.json["groups"]["conv1"]] == [0, 1]
    assert "layer3.0.shortcut.0" not in found.json["groups"]  # it belongs to the stream
    assert {path.name for path in tmp_path.iterdir()} == {"groups.jsonl", "groups.png", "run.yaml"}


def test_a_layer_without_maps_is_swept_without_them(run, refuse, tmp_path):
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def make(**_):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))\n"
    )
    words = ("sweep", f"{tmp_path}/plain.py:make", "--layer", "1", "--score-images", 64, "--counts", 2)
    found = run(*words, "--save", tmp_path / "plain")
    assert found.code == 0, found.err
    assert "no feature maps: layer 1 makes none" in found.out
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {
        "sweep.jsonl",
        "sweep.png",
        "run.yaml",
    }
    assert "no feature maps" not in run(*words, "--maps", 0, "--save", tmp_path / "plain").out
    message = refuse(2, *words, "--maps", 4, "--save", tmp_path / "asked")
    assert "--maps is 4, layer 1 makes no maps" in message
    assert not (tmp_path / "asked" / "sweep.jsonl").exists()  # before any row


def test_what_does_not_fit_is_told(refuse, tmp_path):
    assert "--counts is '1;3'" in refuse(2, "sweep", *RESNET, "--counts", "1;3", "--save", tmp_path)
    assert "has 16 channels" in refuse(2, "sweep", *RESNET, "--counts", "17", "--save", tmp_path)
    assert "--by is 'both'" in refuse(2, "sweep", *RESNET, "--by", "both", "--save", tmp_path)
    assert "--engine is 'spark'" in refuse(2, "sweep", *RESNET, "--engine", "spark", "--save", tmp_path)
    assert "--workers is for" in refuse(2, "sweep", *RESNET, "--workers", 2, "--save", tmp_path)
    nothing = refuse(2, "sweep", "zoo:resnet20", "--save", tmp_path)
    assert "nothing to sweep was named" in nothing
