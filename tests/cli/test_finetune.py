"""`finetune` with a teacher, after a recovery, and from scratch; `train` with penalties on groups."""

import json
import shutil

import pytest
import torch

import secateur as sc
from secateur.train import last_folder
from secateur.write.checkpoint import load_plan
from secateur.zoo import models

QUICK = ("--epochs", 1, "--batch-size", 256)
ENOUGH = ("--epochs", 4, "--batch-size", 32, "--lr", 0.05)
"""To be better than a network at chance."""


def vgg11(**options):
    return models["vgg11"](width=0.0625, in_channels=1, image_size=8, **options)


@pytest.fixture(scope="module")
def cut(studio, run, tmp_path_factory):
    """A fresh cut, nothing absorbed."""
    folder = tmp_path_factory.mktemp("cut") / "cut"
    assert run("prune", studio.dense, "--ratio", 0.5, "--save", folder).code == 0
    return folder


def test_a_teacher_is_learned_from(studio, run, cut, tmp_path):
    plain = run("finetune", cut, *QUICK, "--teacher", "none", "--save", tmp_path / "plain")
    words = ("--teacher", studio.dense, "--temperature", 2, "--teacher-features", "feature.*")
    taught = run("finetune", cut, *QUICK, *words, "--save", tmp_path / "taught")
    assert taught.code == 0
    assert " + teacher " in taught.err
    assert " + teacher " not in plain.err
    assert "was cut from" not in plain.err + taught.err
    one, two = (last_folder(tmp_path / name) / "weights.safetensors" for name in ("plain", "taught"))
    assert one.read_bytes() != two.read_bytes()
    assert load_plan(tmp_path / "taught") == load_plan(cut)
    state = json.loads((last_folder(tmp_path / "taught") / "state.json").read_text())
    assert state["recipe"]["temperature"] == 2
    assert "feature.0" in state["recipe"]["features"]


def test_recovery_comes_before_training_and_tells_what_it_brought(studio, run, cut, tmp_path):
    words = ("--teacher", studio.dense, "--teacher-weight", 0, "--recover", "absorb,refit", "--images", 300)
    outcome = run("finetune", cut, *QUICK, *words, "--save", tmp_path / "out", "--json")
    assert [one["step"] for one in outcome.json["recovered"]] == ["absorb", "refit"]
    assert outcome.json["recovered"][1]["after"] < outcome.json["recovered"][0]["before"]
    assert "refit: output error" in outcome.err
    assert " + teacher " not in outcome.err


def test_what_was_absorbed_is_not_absorbed_again(studio, run, refuse, tmp_path):
    words = ("finetune", studio.pruned, *QUICK, "--teacher", studio.sparse, "--save", tmp_path / "out")
    message = refuse(2, *words, "--recover", "absorb")
    assert "is for a fresh cut" in message
    assert "use refit" in message
    assert run(*words, "--recover", "refit").code == 0


@pytest.mark.parametrize(("baseline", "name"), [("epochs", "scratch-e"), ("compute", "scratch-b")])
def test_baselines_start_from_fresh_weights(run, cut, tmp_path, baseline, name):
    words = ("finetune", cut, *QUICK, "--from-scratch", baseline, "--seed", 3)
    outcome = run(*words, "--save", tmp_path / "out", "--json")
    found = outcome.json
    assert found["baseline"] == name
    due = 1 if baseline == "epochs" else found["dense_macs"] // found["macs"]
    assert found["epochs"] == due
    assert f"{name}: {due} epochs from fresh weights" in outcome.err
    model = sc.load(tmp_path / "out", vgg11())
    assert sum(parameter.numel() for parameter in model.parameters()) == found["params"]
    kept = {name: len(keep) for name, keep in load_plan(cut).keep.items()}
    assert model.feature[25].out_channels == kept["feature.25"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from-scratch", "flops"), "unknown baseline 'flops'"),
        (("--from-scratch", "epochs", "--recover", "refit"), "were both given"),
        (("--recover", "refit", "--teacher", "none"), "needs the network before the cut"),
        (("--recover", "refti"), "unknown recovery step 'refti'"),
        (("--teacher-features", "feature.*", "--teacher", "none"), "without a teacher"),
        (("--temperature", 2, "--from-scratch", "epochs"), "without a teacher"),
        (("--teacher", "{dense}", "--teacher-features", "layer4.*"), "fits 'layer4.*'"),
        (("--teacher", "{dense}", "--temperature", 0), "the temperature is 0"),
        (("--teacher", "{dense}", "--teacher-weight", 2), "the weight of the teacher is 2"),
        (("--teacher", "zoo:vgg13", "--teacher-features", "*"), "the teacher is not zoo:vgg11"),
        (("--teacher", "zoo:vgg11"), "the teacher does not accept images of shape"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(studio, refuse, cut, tmp_path, words, message):
    given = [str(word).format(dense=studio.dense) for word in words]
    assert message in refuse(2, "finetune", cut, *QUICK, *given, "--save", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_model_was_cut_from_is_its_teacher(studio, run, cut, tmp_path):
    said = f"{studio.dense}, which {cut} was cut from, teaches it; --teacher none leaves it out"
    taught = run("finetune", cut, *ENOUGH, "--save", tmp_path / "one", "--json")
    named = run("finetune", cut, *ENOUGH, "--teacher", studio.dense, "--save", tmp_path / "two", "--json")
    assert taught.json["kept_epoch"] > 0
    assert said in taught.err.splitlines()
    assert " + teacher " in taught.err
    assert taught.json["loss"] == named.json["loss"]
    again = run("finetune", tmp_path / "one", *QUICK, "--save", tmp_path / "on")
    assert f"{studio.dense}, which {tmp_path / 'one'} was cut from, teaches it" in again.err
    compared = run(
        "finetune", cut, *QUICK, "--recover", "refit", "--teacher-weight", 0, "--save", tmp_path / "three"
    )
    assert "is compared with it; --teacher none leaves it out" in compared.err
    assert "refit: output error" in compared.err
    assert " + teacher " not in compared.err


def test_without_the_folder_of_the_cut_model_nobody_teaches(studio, run, cut, tmp_path):
    shutil.copytree(cut, tmp_path / "cut")
    record = tmp_path / "cut" / "run.yaml"
    record.write_text(record.read_text().replace(f"model: {studio.dense}", f"model: {tmp_path / 'gone'}"))
    alone = run("finetune", tmp_path / "cut", *QUICK, "--save", tmp_path / "out")
    assert alone.code == 0
    assert " + teacher " not in alone.err
    assert "was cut from" not in alone.err
    words = ("--arg", "width=0.125", "--arg", "in_channels=1", "--arg", "image_size=8")
    assert run("train", "zoo:vgg11", *words, *QUICK, "--save", tmp_path / "gone").code == 0
    other = run("finetune", tmp_path / "cut", *QUICK, "--save", tmp_path / "other")
    assert f"no teacher: {tmp_path / 'gone'} is no longer what {tmp_path / 'cut'} was cut from" in other.err
    assert " + teacher " not in other.err


def test_an_unpruned_model_has_no_baseline(studio, refuse, tmp_path):
    words = ("finetune", studio.dense, "--from-scratch", "epochs", "--save", tmp_path / "out")
    assert "the model was not pruned" in refuse(2, *words)


@pytest.mark.parametrize(
    "words", [("--sparsity", "group-lasso", "--s", 0.01), ("--sparsity", "growing-l2", "--ratio", 0.5)]
)
def test_group_penalties_train_models_with_and_without_batch_norm(run, tmp_path, tiny, words):
    outcome = run("train", "zoo:vgg11", *tiny, *QUICK, *words, "--save", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    assert f"{words[1]} with s=" in outcome.err
    assert "channels and all that goes along" in outcome.err
    model = sc.load(tmp_path / "out", vgg11(gamma=0.5))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_what_growing_l2_pushed_out_is_what_the_cut_takes(run, tmp_path, tiny):
    words = ("--sparsity", "growing-l2", "--ratio", 0.4, "--epochs", 12, "--batch-size", 64, "--lr", 0.05)
    run("train", "zoo:vgg11", *tiny, *words, "--save", tmp_path / "grown")
    before = run("evaluate", tmp_path / "grown", "--json").json["accuracy"]
    found = run("prune", tmp_path / "grown", "--ratio", 0.4, "--save", tmp_path / "cut", "--json").json
    assert found["verdict"] == "exact"
    after = run("evaluate", tmp_path / "cut", "--json").json["accuracy"]
    assert before > 0.15
    assert after == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sparsity", "growing-l2"), "must know how many channels will go"),
        (("--sparsity", "group-lasso", "--ratio", 0.5), "pushes no chosen channels out"),
        (("--ratio", 0.5), "pushes no chosen channels out"),
        (("--sparsity", "group-laso"), "did you mean 'group-lasso'"),
        (("--sparsity", "growing-l2", "--ratio", 1.5), "ratio is 1.5"),
    ],
)
def test_bad_penalties_are_refused(refuse, tmp_path, tiny, words, message):
    given = ("train", "zoo:vgg11", *tiny, *QUICK, *words, "--save", tmp_path / "out")
    assert message in refuse(2, *given)


def test_seeds_decide_the_fresh_weights(run, cut, tmp_path):
    words = ("finetune", cut, "--epochs", 1, "--lr", 1e-9, "--from-scratch", "epochs")
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        run(*words, "--seed", seed, "--save", tmp_path / name)
    one, same, other = (sc.load(tmp_path / name, vgg11()).state_dict() for name in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["feature.0.weight"], other["feature.0.weight"])


def test_a_training_that_makes_it_worse_says_so(run, tmp_path):
    net = (
        "zoo:vgg11",
        *(word for name in ("width=0.0625", "in_channels=1", "image_size=8") for word in ("--arg", name)),
    )
    words = ("--threads", 1, "--schedule", "cosine", "--batch-size", 64)
    good = run("train", *net, *words, "--epochs", 4, "--lr", 0.05, "--save", tmp_path / "good", "--json")
    assert good.json["validation_accuracy"] > 0.2
    worse = run("finetune", tmp_path / "good", *words, "--epochs", 1, "--lr", 9, "--save", tmp_path / "worse")
    assert worse.code == 0, worse.err
    assert "trained 1 epoch, kept the start, as none is better" in worse.out
    assert "no epoch was better than the model that came in, whose weights are kept" in worse.out
    one, two = (sc.load(tmp_path / name, vgg11(gamma=0.5)).state_dict() for name in ("good", "worse"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run("report", tmp_path / "worse", "--out", tmp_path / "page.md").code == 0
    assert "the weights are those before the training" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("finetune", "{dense}", "--temperature", 2), "--temperature was given without a teacher"),
        (("train", "{dense}", "--s", 0.5), "--s 0.5 was given without a penalty"),
        (("prune", "{dense}", "--ratio", 0.5, "--images", 5), "--images was given without --data"),
        (("sweep", "{dense}", "--blocks", "--counts", "1,3"), "--counts and --maps are for --layer"),
        (("sweep", "{dense}", "--blocks", "--by", "groups"), "--by is for --ratios"),
        (("prune", "{dense}", "--ratio", 0.5, "--criterion", "taylor"), "pass --data, or choose a criterion"),
    ],
)
def test_options_without_effect_are_refused(studio, refuse, tmp_path, words, message):
    given = [str(word).format(dense=studio.dense) for word in words]
    assert message in refuse(2, *given, "--save", tmp_path / "out")
