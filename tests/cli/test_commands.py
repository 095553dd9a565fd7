"""What a user does: every command, in the order of the README, on real digits."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import secateur as sc
from secateur.plans.plan import Plan
from secateur.zoo import models

CHANNEL = 0.02  # what one channel of so small a network may cost
DIGITS = ("--arg", "width=0.0625", "--arg", "in_channels=1", "--arg", "image_size=8")


def plan_of(folder):
    return Plan.from_json((folder / "plan.json").read_bytes())


def vgg11(**options):
    return models["vgg11"](width=0.0625, in_channels=1, image_size=8, **options)


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_inspect_shows_groups_members_reasons_and_cost(run):
    outcome = run("inspect", "zoo:vgg11", *DIGITS, "--protect", "feature.25")
    assert outcome.code == 0
    assert "feature.0.weight[0]" in outcome.out
    assert "protected: model output" in outcome.out
    assert "protected: asked for by protect='feature.25'" in outcome.out
    assert outcome.out.rstrip().endswith("bytes")
    assert outcome.err == ""


def test_inspect_as_json(run):
    found = run("inspect", "zoo:vgg11", *DIGITS, "--json").json
    params = sum(parameter.numel() for parameter in vgg11().parameters())
    assert found["params"] == params
    assert {group["name"] for group in found["groups"] if group["prunable"]} >= {"feature.0", "feature.25"}
    assert (
        next(group for group in found["groups"] if group["name"] == "classifier")["reason"] == "model output"
    )


def test_training_tells_what_it_wrote_and_what_came_out(studio):
    outcome = studio.outcomes["dense"]
    last = outcome.out.splitlines()[-1]
    assert last == f"wrote {studio.dense}/weights.safetensors and {studio.dense}/plan.json"
    assert "epoch 1" in outcome.err
    assert "of 359 test images right" in outcome.out


def test_sparse_training_says_what_the_strength_will_reach(studio):
    outcome = studio.outcomes["sparse"]
    assert "can move a batch-norm scale" in outcome.err
    assert "near zero" in outcome.err
    assert set(outcome.json) >= {
        "accuracy",
        "validation_accuracy",
        "params",
        "macs",
        "saved",
        "near_zero_share",
    }
    assert outcome.json["kept_epoch"] == 1


def test_prune_proves_recovers_warns_and_saves(studio):
    outcome = studio.outcomes["pruned"]
    assert "warning: only 0 % of the prunable batch-norm scales are near zero" in outcome.err
    assert "exact: masked == cut" in outcome.out
    assert "absorb classifier: " in outcome.out
    assert outcome.out.splitlines()[-1] == f"wrote {studio.pruned}"
    assert sorted(content_of(studio.pruned)) == ["plan.json", "run.yaml", "weights.safetensors"]
    plan = plan_of(studio.pruned)
    assert plan.source == "zoo:vgg11"
    assert plan.command.startswith("secateur prune ")
    assert plan.achieved == pytest.approx(0.5, abs=0.01)


def test_prune_recovers_with_images_and_tells_the_error(studio, run, tmp_path):
    words = ("prune", studio.sparse, "--ratio", 0.4, "--recover", "absorb,refit", "--recover", "batch-norm")
    found = run(*words, "--data", "digits", "--images", 600, "--save", tmp_path / "cut", "--json").json
    assert [error["step"] for error in found["output_errors"]] == ["absorb", "refit", "batch-norm"]
    absorb, refit, _ = found["output_errors"]
    assert refit["after"] < absorb["before"]
    assert any(line.startswith("refit feature.") for line in found["recovered"])
    loaded = sc.load(tmp_path / "cut", vgg11())
    assert all(tensor.isfinite().all() for tensor in loaded.state_dict().values())


def test_a_second_pass_cuts_what_the_first_one_left(studio):
    first, second = plan_of(studio.pruned), plan_of(studio.again)
    assert second.previous == first
    outcome = studio.outcomes["again"].json
    assert outcome["after"]["macs"] == pytest.approx(0.6 * outcome["before"]["macs"], rel=CHANNEL)
    model = sc.load(studio.again, vgg11())
    widths = {name: len(keep) for name, keep in second.keep.items()}
    assert model.feature[25].out_channels == widths["feature.25"]
    assert sum(parameter.numel() for parameter in model.parameters()) == outcome["after"]["params"]
    model.eval()(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("stage", ["dense", "sparse", "pruned", "tuned", "again"])
def test_every_saved_folder_can_be_inspected(studio, run, stage):
    assert run("inspect", getattr(studio, stage), "--json").json["params"] > 0


@pytest.mark.parametrize(
    ("budget", "key", "limit"),
    [
        (("--ratio", 0.3), None, None),
        (("--macs", 0.5), "macs", 0.5),
        (("--params", 0.4), "params", 0.4),
        (("--macs", 20000), "macs", 20000),
        (("--channels", "feature.25=0.5"), None, None),
    ],
)
def test_every_budget_is_met(studio, run, tmp_path, budget, key, limit):
    found = run("prune", studio.dense, *budget, "--save", tmp_path / "out", "--json").json
    assert found["verdict"] == "exact"
    assert found["after"]["params"] < found["before"]["params"]
    if key is not None:
        allowed = limit if limit > 1 else limit * found["before"][key]
        assert found["after"][key] == pytest.approx(allowed, rel=CHANNEL)
    if budget[0] == "--channels":
        cut = {name for name, (before, after) in found["groups"].items() if after < before}
        assert cut == {"feature.25"}


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "parallel"])
def test_weights_come_from_a_state_dict_in_any_usual_wrapping(run, tmp_path, wrap):
    state = vgg11().state_dict()
    inside = {f"module.{name}": tensor for name, tensor in state.items()} if wrap == "parallel" else state
    torch.save({wrap: inside, "epoch": 3} if wrap in ("state_dict", "model") else inside, tmp_path / "w.pth")
    words = ("prune", "zoo:vgg11", *DIGITS, "--weights", tmp_path / "w.pth", "--ratio", 0.3)
    assert run(*words, "--save", tmp_path / "out", "--json").json["verdict"] == "exact"
    kept = plan_of(tmp_path / "out").keep["feature.25"]
    saved = load_file(tmp_path / "out" / "weights.safetensors")
    assert torch.equal(saved["feature.26.bias"], state["feature.26.bias"][list(kept)])
    assert torch.equal(saved["classifier.weight"], state["classifier.weight"][:, list(kept)])


def test_weights_come_from_safetensors(run, tmp_path):
    save_file(vgg11().state_dict(), tmp_path / "w.safetensors")
    words = ("prune", "zoo:vgg11", *DIGITS, "--weights", tmp_path / "w.safetensors", "--ratio", 0.3)
    assert run(*words, "--save", tmp_path / "out").code == 0


def test_a_ratio_of_zero_warns_and_writes_an_equal_model(studio, run, tmp_path):
    outcome = run("prune", studio.dense, "--ratio", 0, "--save", tmp_path / "same")
    assert outcome.code == 0
    assert "warning: ratio=0 asks for nothing to be pruned" in outcome.err
    before, after = (load_file(path / "weights.safetensors") for path in (studio.dense, tmp_path / "same"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run, tmp_path, tiny):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ("train", "zoo:vgg11", *tiny, "--epochs", 1, "--batch-size", 512, "--seed", seed)
        assert run(*words, "--save", tmp_path / name).code == 0
    one, two, other = (load_file(tmp_path / name / "weights.safetensors") for name in "abc")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["feature.0.weight"], other["feature.0.weight"])


def test_a_run_is_resumed_by_the_same_words_and_otherwise_refused(studio, run, refuse, tmp_path, tiny):
    folder = tmp_path / "run"
    shutil.copytree(studio.dense, folder)
    words = ("train", "zoo:vgg11", *tiny, "--epochs", 1, "--batch-size", 256, "--save", folder)
    before = content_of(folder)
    assert "already holds a run (epoch-0001)" in refuse(2, *words)
    assert "lr: 0.1 in the checkpoint, 0.2 asked for" in refuse(2, *words, "--lr", 0.2, "--resume")
    assert content_of(folder) == before
    assert run(*words, "--resume").code == 0
    # Tensors, not bytes: safetensors writes its metadata in any order.
    one, two = (load_file(path / "weights.safetensors") for path in (studio.dense, folder))
    assert one.keys() == two.keys() == vgg11().state_dict().keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run(*words, "--overwrite").code == 0


def test_evaluate_reports_accuracy_by_class_cost_and_time(studio, run):
    outcome = run("evaluate", studio.tuned)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].endswith("loss " + lines[0].rsplit(" ", 1)[1])
    assert "of 359 test images right" in lines[0]
    assert "parameters" in lines[1]
    assert "ms (quartiles" in lines[2]
    assert len([line for line in lines[3:] if line.endswith("%")]) == 10
    found = run("evaluate", studio.tuned, "--json").json
    assert set(found) >= {"accuracy", "loss", "params", "macs", "size_bytes", "latency_ms"}
    assert found["accuracy"] == studio.outcomes["tuned"].json["accuracy"]
    assert found["params"] == studio.outcomes["tuned"].json["params"]


def test_check_proves_a_cut_also_after_fine_tuning(studio, run):
    assert run("check", studio.sparse, studio.pruned).out.startswith("exact: masked == cut")
    found = run("check", studio.sparse, studio.tuned, "--json").json
    assert found["verdict"] == "exact"
    assert found["relative_error"] < 1e-9
    assert found["failure"] is None
    assert run("check", studio.tuned, studio.again).code == 0
    assert run("check", "zoo:vgg11", studio.pruned, *DIGITS).code == 0


def test_bench_states_median_quartiles_threads_and_batch(studio, run):
    assert "batch 4, 1 threads, cpu)" in run("bench", studio.tuned, "--batch", 4, "--repeats", 3).out
    found = run("bench", studio.tuned, "--repeats", 3, "--json").json
    assert found["lower_ms"] <= found["median_ms"] <= found["upper_ms"]
    assert found["repeats"] == 3


def test_bench_times_several_in_turn_and_says_how_far_from_the_ideal(studio, run):
    found = run("bench", studio.dense, studio.tuned, "--repeats", 3, "--json").json
    dense, tuned = found["models"]
    assert dense["ideal_ratio"] == 1
    assert tuned["ideal_ratio"] == tuned["macs"] / dense["macs"] < 1
    cell = tuned["programs"]["pytorch"]
    assert cell["times_ideal"] == pytest.approx(cell["ratio"] / tuned["ideal_ratio"])
    assert "takes so many times the ideal" in run("bench", studio.dense, studio.tuned, "--repeats", 3).out


def test_bench_takes_onnx_files(studio, run, refuse, tmp_path):
    file = tmp_path / "tuned.onnx"
    assert run("export", studio.tuned, file).code == 0
    found = run("bench", studio.tuned, file, "--repeats", 3, "--json").json
    assert found["models"][1]["programs"]["pytorch"] == {"reason": "a file, no module"}
    assert found["models"][1]["programs"]["onnxruntime"]["median_ms"] > 0
    for words in ((), ("--batch", 4), ("--input", "1,1,8,8")):
        assert run("bench", file, *words, "--repeats", 3, "--json").code == 0
    assert "there is no file" in refuse(2, "bench", tmp_path / "none.onnx")
    file.write_bytes(b"no network")
    assert "cannot be read by ONNX Runtime" in refuse(2, "bench", file)
    assert "did you mean 'compile'?" in refuse(2, "bench", studio.tuned, "--with", "compil")


def test_a_target_is_an_option_and_part_of_the_plan(studio, run, refuse, tmp_path):
    words = ("prune", studio.dense, "--ratio", 0.5, "--save", tmp_path / "cut")
    assert run(*words, "--target", "ncnn").code == 0
    plan = json.loads((tmp_path / "cut" / "plan.json").read_text())
    assert plan["requested"]["options"]["target"] == "ncnn"
    assert all(len(group["keep"]) % 8 == 0 or len(group["keep"]) == group["size"] for group in plan["groups"])
    assert "did you mean 'ncnn'?" in refuse(2, *words, "--target", "ncn", "--overwrite")


@pytest.fixture(scope="session")
def slimmed(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("slimmed")
    words = ("slim", "zoo:vgg11", "--arg", "width=0.0625", "--arg", "gamma=0.5", "--epochs", 1, "--passes", 2)
    settings = ("--finetune-epochs", 1, "--batch-size", 256, "--ratio", 0.5, "--s", 0.3, "--json")
    return folder, run(*words, *settings, "--save", folder)


def test_slim_prints_one_object_with_every_stage(slimmed):
    folder, outcome = slimmed
    found = outcome.json
    for stage in ("dense", "sparse", "pruned", "finetuned"):
        assert set(found[stage]) >= {"accuracy", "params", "macs", "size_bytes", "latency_ms"}
        assert (folder / stage / "weights.safetensors").stat().st_size == found[stage]["size_bytes"]
    assert found["dense"]["params"] > found["sparse"]["params"] > found["finetuned"]["params"]
    assert found["pruned"]["params"] == found["finetuned"]["params"]
    assert found["verdict"] == "exact"
    assert all(os.path.exists(found[name]) for name in ("plan", "report"))  # noqa: PTH110


def test_two_passes_remove_the_asked_share_together(slimmed):
    folder, outcome = slimmed
    assert outcome.json["achieved_ratio"] == pytest.approx(0.5, abs=0.01)
    report = json.loads((folder / "report.json").read_text())
    assert report["requested_ratio"] == pytest.approx(0.5, abs=1e-5)
    assert report["achieved_ratio"] == outcome.json["achieved_ratio"]
    model = sc.load(folder / "finetuned", vgg11(gamma=0.5))
    rows = {row["name"]: row for row in report["layers"]}
    for name, module in model.named_modules():
        if name in rows and name.startswith("feature"):
            assert rows[name]["channels_after"] == module.out_channels
            assert rows[name]["channels_before"] == vgg11().get_submodule(name).out_channels
    assert sum(row["params_before"] for row in rows.values()) <= outcome.json["dense"]["params"]


def test_the_last_stage_of_slim_can_be_pruned_again(slimmed, run, tmp_path):
    folder, _ = slimmed
    found = run("prune", folder / "finetuned", "--ratio", 0.3, "--save", tmp_path / "third", "--json").json
    assert found["verdict"] == "exact"
    assert run("check", folder / "finetuned", tmp_path / "third").code == 0


@pytest.mark.parametrize("suffix", ["html", "md", "txt", "json"])
def test_a_report_is_rendered_in_every_format(slimmed, run, tmp_path, suffix):
    folder, _ = slimmed
    out = tmp_path / f"again.{suffix}"
    outcome = run("report", folder / "report.json", "--out", out)
    assert outcome.out == f"wrote {out}\n"
    text = out.read_text()
    assert "zoo:vgg11" in text
    assert "feature.25" in text
    assert ("<html" in text) == (suffix == "html")


def test_a_report_without_a_file_is_printed(slimmed, run):
    folder, _ = slimmed
    assert "What was written where" in run("report", folder / "report.json").out
    inner = json.loads(run("report", folder / "report.json", "--json").json["report"])
    assert inner["schema"].startswith("secateur-report")


def test_demo_takes_its_options_and_is_slim_with_a_recipe(monkeypatch, run, tmp_path):
    from secateur.cli.commands import demo

    def quick(epochs, **options):
        return fit_config(epochs=1, **{**options, "batch_size": 256})

    fit_config = demo.FitConfig
    monkeypatch.setattr(demo, "FitConfig", quick)
    outcome = run("demo", "--save", tmp_path / "demo", "--ratio", 0.5, "--json")
    found = outcome.json
    assert set(found) >= {"dense", "sparse", "pruned", "recovered", "finetuned", "plan", "report", "verdict"}
    assert found["recovered"]["params"] == found["pruned"]["params"]
    assert found["verdict"] == "exact"
    assert "Channels removed" in run("report", tmp_path / "demo" / "report.json").out


@pytest.mark.slow
def test_the_real_demo_keeps_its_accuracy(run, tmp_path):
    found = run("demo", "--save", tmp_path / "demo", "--json").json
    assert found["finetuned"]["accuracy"] > found["dense"]["accuracy"] - 0.01
    assert found["recovered"]["accuracy"] > found["dense"]["accuracy"] - 0.01 > found["pruned"]["accuracy"]
    assert found["finetuned"]["params"] < 0.35 * found["dense"]["params"]


def secateur(*words, **options):
    program = [sys.executable, "-c", "from secateur.cli import main; main()", *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=300, **options)


@pytest.mark.slow
def test_a_moved_folder_works_in_a_fresh_process_from_anywhere_and_without_a_home(studio, tmp_path):
    shutil.copytree(studio.again, tmp_path / "moved")
    bare = {"PATH": os.environ["PATH"], "HOME": "/proc/nowhere", "OMP_NUM_THREADS": "1"}
    done = secateur("inspect", "../moved", "--json", cwd=_made(tmp_path / "elsewhere"), env=bare)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["params"] == studio.outcomes["again"].json["after"]["params"]
    assert done.stderr == ""
    assert list((tmp_path / "elsewhere").iterdir()) == []


def _made(folder):
    folder.mkdir()
    return folder


TWO_HEADED = """
import torch
from torch import nn

class TwoHeaded(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.body(x)
        return {"y": self.head(hidden), "hidden": hidden}
"""


def test_the_outputs_that_count_are_named(run, refuse, tmp_path):
    (tmp_path / "two.py").write_text(TWO_HEADED)
    words = (f"{tmp_path / 'two.py'}:TwoHeaded", "--input", "2,6")
    reasons = [
        {group["name"]: group["reason"] for group in run("inspect", *words, *more, "--json").json["groups"]}
        for more in ((), ("--outputs", "y"))
    ]
    assert [found["body"] for found in reasons] == ["model output", None]
    cut = ("--ratio", 0.5, "--outputs", "y", "--save", tmp_path / "half")
    assert run("prune", *words, *cut, "--json").json["verdict"] == "exact"
    assert run("check", words[0], tmp_path / "half", *words[1:], "--outputs", 0).code == 0
    assert "outputs names 'z'" in refuse(2, "inspect", *words, "--outputs", "z")
