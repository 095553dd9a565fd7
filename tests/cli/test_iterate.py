"""`secateur iterate`: prune in steps, from the command line."""

import json

import pytest

import secateur as sc
from secateur.write.checkpoint import load_plan
from secateur.zoo import models

QUICK = ("--steps", 2, "--epochs", 1, "--batch-size", 256, "--images", 200)


@pytest.fixture(scope="module")
def steps(studio, run, tmp_path_factory):
    save = tmp_path_factory.mktemp("iterate") / "steps"
    words = ("iterate", studio.dense, "--ratio", 0.6, "--schedule", "linear", *QUICK, "--save", save)
    return words, run(*words), save


def test_it_says_each_stage_and_last_what_was_written_where(steps):
    _, outcome, save = steps
    assert outcome.code == 0, outcome.err
    last = outcome.out.splitlines()[-1]
    assert last == (
        f"wrote {save}/weights.safetensors and {save}/plan.json, "
        f"a step-NN folder for each of 2 steps, and {save}/steps.jsonl"
    )
    stages = [line.partition(":")[0] for line in outcome.err.splitlines() if line.startswith("step-")]
    assert stages == [f"step-0{step} {stage}" for step in (1, 2) for stage in ("cut", "recovered", "tuned")]
    lines = [json.loads(line) for line in (save / "steps.jsonl").read_text().splitlines()]
    assert [round(row["removed"], 1) for row in lines[1::3]] == [0.3, 0.6]


def test_the_result_and_every_step_load_and_can_be_pruned_on(steps, run, tmp_path):
    _, _, save = steps
    plan = load_plan(save)
    assert plan.first.source == "zoo:vgg11"
    assert plan.command.startswith("secateur iterate ")
    assert plan.previous is not None
    sc.load(save, models["vgg11"](width=0.0625, in_channels=1, image_size=8))
    for folder in (save, save / "step-01", save / "step-01" / "cut"):
        assert run("evaluate", folder, "--json").code == 0
    assert run("prune", save, "--ratio", 0.1, "--save", tmp_path / "on").code == 0


def test_a_finished_run_is_resumed_without_work_and_not_overwritten_unasked(steps, run, refuse):
    words, outcome, save = steps
    rows = (save / "steps.jsonl").read_text()
    again = run(*words, "--resume")
    assert again.out == outcome.out
    assert (save / "steps.jsonl").read_text() == rows
    assert "already holds a run (steps.jsonl)" in refuse(2, *words)
    message = refuse(1, *words, "--resume", "--criterion", "l1")
    assert "criterion: l2 there, l1 here" in message


def test_as_json_with_a_teacher_and_without_recovery(studio, run, tmp_path):
    words = ("iterate", studio.dense, "--macs", 0.5, *QUICK, "--recover", "none", "--distil")
    found = run(*words, "--save", tmp_path / "out", "--json").json
    assert [row["stage"] for row in found["rows"]] == ["cut", "tuned"] * 2
    assert found["after"]["macs"] == pytest.approx(0.5 * found["before"]["macs"], rel=0.03)
    assert found["written"][1] == str(tmp_path / "out" / "steps.jsonl")


def test_a_saved_model_teaches_unless_it_is_left_out(steps, studio, run, tmp_path):
    _, outcome, _ = steps
    said = f"{studio.dense} teaches every fine-tuning; --no-distil leaves it out"
    assert outcome.err.splitlines().count(said) == 1
    assert " + teacher " in outcome.err
    words = ("iterate", studio.dense, "--ratio", 0.3, "--steps", 1, "--epochs", 1, "--batch-size", 256)
    alone = run(*words, "--images", 200, "--no-distil", "--save", tmp_path / "out")
    assert alone.code == 0
    assert "teach" not in alone.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "0 budgets were given"),
        (("--ratio", 0.5, "--macs", 0.5), "2 budgets were given"),
        (("--ratio", 0.5, "--schedule", "apg"), "unknown schedule 'apg'"),
        (("--ratio", 0.5, "--recover", "refti"), "unknown recovery step 'refti'"),
        (("--ratio", 0.5, "--criterion", "l9"), "unknown criterion 'l9'"),
        (("--ratio", 0.5, "--steps", 0), "steps is 0"),
        (("--ratio", 0.5, "--resume", "--overwrite"), "both asked for"),
        (("--params", 10**9), "the model has"),
    ],
)
def test_bad_requests_are_refused(studio, refuse, tmp_path, words, message):
    assert message in refuse(2, "iterate", studio.dense, *words, "--save", tmp_path / "out")
