"""`secateur darknet` from end to end, in small: every verb reads what the one before wrote."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from secateur.domains.darknet import read_cfg

QUICK = ("--images", "24,8", "--threads", 1)


@pytest.fixture(scope="module")
def shop(run, tmp_path_factory):
    """A training, a pruning and a fine-tuning; read only."""
    folder = tmp_path_factory.mktemp("darknet")
    steps = {
        "dense": ("train", "digits", "--epochs", 1, "--sparsity", 0.1, "--strategy", "slim", *QUICK),
        "pruned": ("prune", folder / "dense", "--strategy", "slim", "--data", "digits", "--images", "24,8"),
        "tuned": ("finetune", folder / "pruned", "--epochs", 1, "--teacher", folder / "dense", *QUICK),
    }
    outcomes = {}
    for name, words in steps.items():
        outcomes[name] = run("darknet", *words, "--save", folder / name, "--json")
        assert outcomes[name].code in (0, None), outcomes[name].err
    return SimpleNamespace(folder=folder, **outcomes)


def test_training_writes_cfg_and_weights_and_says_how_it_went(shop):
    numbers = shop.dense.json
    assert numbers["epochs"] == 1
    assert 0 <= numbers["map50"] <= 1
    assert set(numbers["per_class"]) == set("0123456789")
    assert "pulled_near_zero_share" in numbers
    assert (shop.folder / "dense" / "digits.weights").stat().st_size > 1_000_000
    assert (shop.folder / "dense" / "digits.cfg").read_text() == read_cfg("digits").text
    assert list((shop.folder / "dense").glob("epoch-0001/digits.weights"))


def test_pruning_proves_and_shrinks(shop):
    numbers = shop.pruned.json
    assert numbers["verdict"] == "exact"
    assert numbers["after"]["params"] < 0.7 * numbers["before"]["params"]
    assert numbers["percent_limit"] > 0
    assert numbers["map50_before"] >= 0
    assert (shop.folder / "pruned" / "plan.json").exists()


def test_fine_tuning_reads_what_pruning_wrote(shop):
    assert shop.tuned.json["epochs"] == 1
    before, after = ((shop.folder / name / "digits.cfg").read_text() for name in ("pruned", "tuned"))
    assert before == after


def test_evaluate_gives_the_map_that_training_gave(run, shop):
    outcome = run("darknet", "evaluate", shop.folder / "tuned", *QUICK, "--json")
    assert outcome.json["map50"] == pytest.approx(shop.tuned.json["map50"])


def test_detect_draws_and_writes_json(run, shop, tmp_path):
    Image.new("RGB", (120, 80), "grey").save(tmp_path / "grey.png")
    words = ("--save", tmp_path / "drawn", "--save-json", tmp_path / "found.json", "--conf", 0.01)
    outcome = run("darknet", "detect", shop.folder / "tuned", tmp_path / "grey.png", *words, "--json")
    assert outcome.code in (0, None), outcome.err
    assert json.loads((tmp_path / "found.json").read_text()) == outcome.json["pictures"]
    assert outcome.json["pictures"][0]["image"] == "grey.png"
    assert (tmp_path / "drawn" / "grey.png").exists()


def test_sweep_finds_rows_and_plots(run, shop, tmp_path):
    words = (
        "--strategy",
        "slim",
        "--percents",
        "0.3,0.6",
        "--refine",
        0,
        *QUICK,
        "--save",
        tmp_path / "sweep",
    )
    outcome = run("darknet", "sweep", shop.folder / "dense", *words, "--json")
    assert outcome.code in (0, None), outcome.err
    assert [row["percent"] for row in outcome.json["rows"]] == [0, 0.3, 0.6]
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000


def test_quantise_writes_int8(run, shop, tmp_path):
    pytest.importorskip("onnxruntime", reason="quantising needs the extra onnx")
    pytest.importorskip("onnxscript", reason="quantising needs the extra onnx")
    words = ("--calibration", 8, *QUICK, "--save", tmp_path / "int8", "--json")
    outcome = run("darknet", "quantise", shop.folder / "tuned", *words)
    assert outcome.code in (0, None), outcome.err
    assert outcome.json["size_bytes"][1] < 0.5 * outcome.json["size_bytes"][0]
    assert 0 <= outcome.json["after"]["map50"] <= 1


def test_digits_are_made_read_and_converted(run, tmp_path):
    made = run("darknet", "make-digits", tmp_path / "made", "--images", 6, "--valid", 4, "--json")
    assert made.json["images"] == {"train": 6, "valid": 4}
    words = ("convert", made.json["data"], tmp_path / "again", "--format", "yolo", "--json")
    assert run("darknet", *words).json["boxes"] == made.json["boxes"]
    words = ("train", "digits", "--data", made.json["data"], "--epochs", 1, "--batch-size", 3, "--threads", 1)
    trained = run("darknet", *words, "--save", tmp_path / "run", "--json")
    assert trained.json["epochs"] == 1


def test_resume_goes_on_and_finds_nothing_to_do(run, shop):
    words = ("--epochs", 1, "--sparsity", 0.1, "--strategy", "slim", *QUICK)
    outcome = run("darknet", "train", "digits", *words, "--save", shop.folder / "dense", "--resume", "--json")
    assert outcome.code in (0, None), outcome.err
    assert outcome.json["loss"] == shop.dense.json["loss"]


def test_words_that_do_not_fit_are_refused(refuse, tmp_path):
    save = ("--save", tmp_path / "run")
    assert "has no weights" in refuse(2, "darknet", "evaluate", "digits")
    assert "--size is 'big'" in refuse(2, "darknet", "train", "digits", "--size", "big", *save)
    assert "--images is '7'" in refuse(2, "darknet", "train", "digits", "--images", "7", *save)
    assert "unknown strategy" in refuse(
        2, "darknet", "train", "digits", "--sparsity", 1, "--strategy", "sllim", *save
    )
    assert "did you mean 'digits'" in refuse(2, "darknet", "train", "digit", *save)
    assert "holds 0 .cfg files" in refuse(2, "darknet", "evaluate", tmp_path)


def test_the_demo_prints_one_object(run, tmp_path):
    words = ("--epochs", "1,1,1", "--images", "24,8", "--threads", 1, "--save", tmp_path / "demo", "--json")
    outcome = run("darknet", "demo", *words)
    assert outcome.code in (0, None), outcome.err
    keys = {"map50", "map", "params", "macs", "size_bytes", "latency_ms"}
    for stage in ("dense", "sparse", "pruned", "finetuned"):
        assert keys <= outcome.json[stage].keys()
        assert (tmp_path / "demo" / f"{stage}.weights").stat().st_size == outcome.json[stage]["size_bytes"]
    assert outcome.json["pruned"]["params"] < outcome.json["dense"]["params"]
    assert outcome.json["verdict"] == "exact"
    assert (tmp_path / "demo" / "detections.png").exists()


@pytest.mark.slow
def test_the_demo_detects_digits(run, tmp_path):
    outcome = run("darknet", "demo", "--save", tmp_path / "demo", "--json")
    numbers = outcome.json
    assert numbers["dense"]["map50"] >= 0.85
    assert numbers["finetuned"]["map50"] >= numbers["dense"]["map50"] - 0.05
    assert numbers["finetuned"]["params"] < 0.5 * numbers["dense"]["params"]
    assert numbers["finetuned"]["size_bytes"] < 0.5 * numbers["dense"]["size_bytes"]
