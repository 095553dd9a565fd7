"""Reports of anything: what each kind of thing has to say, in every format, and joined or compared."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from report_samples import FULL
from safetensors.torch import save_file
from subject_samples import (
    DETECTED,
    FOLDERS,
    OBJECTS,
    PERCENTS,
    RECORDS,
    STEPS,
    iterate_folder,
    percent_folder,
    pruned,
    recovered,
    saved_folder,
    small_net,
    training_folder,
)

import secateur as sc
from secateur.errors import CheckpointError, RequestError
from secateur.iterative.rows import Iterated
from secateur.plans.making import identity_plan
from secateur.reports import subjects
from secateur.reports.content import ModelRow, Report, VerdictRow
from secateur.reports.formats import formats, write_report
from secateur.reports.formats.json import parse
from secateur.reports.page import headline, sections
from secateur.reports.sections.models import front, show_models
from secateur.reports.subjects import registered, report, report_of
from secateur.write.checkpoint import save_model
from secateur.write.digests import digest_of, signed


def keys(made):
    return [section.key for section in sections(made)]


def table_of(made, key):
    return next(section.table for section in sections(made) if section.key == key)


@pytest.mark.parametrize("kind", sorted(OBJECTS))
@pytest.mark.parametrize("name", sorted(formats))
def test_every_object_has_a_report_in_every_format(kind, name):
    made = report_of(OBJECTS[kind]())
    assert len(keys(made)) > 0
    assert made.title in formats[name](made)
    assert parse(formats["json"](made)) == made


@pytest.mark.parametrize("kind", sorted(FOLDERS))
def test_every_folder_has_a_report_in_every_format(kind, tmp_path):
    made = report_of(FOLDERS[kind](tmp_path / kind))
    assert len(keys(made)) > 0
    assert made.title == str(tmp_path / kind)
    for name in formats:
        assert kind in formats[name](made)
    assert parse(formats["json"](made)) == made


def test_all_registered_subjects_are_among_the_samples():
    assert set(registered) == {"detector", "iterate", "plan", "result", "sweep", "training"}


def test_a_result_says_cost_widths_reasons_verdict_and_recovery():
    result = recovered()
    made = report_of(result)
    assert keys(made) == ["stages", "budget", "layers", "groups", "recovery", "verdict"]
    facts = {fact.label: fact.value for fact in headline(made)}
    assert set(facts) == {"Parameters", "MACs", "Verdict"}
    assert facts["Verdict"] == "exact"
    assert [row.params for row in made.stages] == [result.before.params, result.after.params]
    assert [row.macs for row in made.stages] == [result.before.macs, result.after.macs]
    assert {row.name: row.kept for row in made.groups if row.status == "pruned"} == {
        group.name: len(group.keep) for group in result.plan.groups
    }
    assert {row.name: row.reason for row in made.groups if row.status == "protected"} == dict(
        result.plan.reasons
    )
    assert sum(row.params_after for row in made.layers) < sum(row.params_before for row in made.layers)
    text = formats["text"](made)
    assert all(f"{one.step}: output error"[1:] in text for one in result.errors)
    assert len(table_of(made, "recovery").rows) == len(result.recovered)


def test_a_result_without_check_and_recovery_has_no_such_sections():
    made = report_of(pruned(check=False))
    assert "verdict" not in keys(made)
    assert "recovery" not in keys(made)
    assert made.requested_ratio == 0.5


def test_a_plan_after_a_plan_counts_the_channels_of_the_uncut_model():
    first = pruned()
    second = sc.prune(first.model, torch.zeros(1, 1, 8, 8), ratio=0.5)
    rows = report_of(second.plan.after(first.plan)).groups
    sizes = {group.name: group.size for group in first.plan.groups}
    kept = {group.name: len(group.keep) for group in second.plan.groups}
    assert {row.name: row.size for row in rows} == sizes
    assert all(row.kept == kept[row.name] for row in rows if row.name in kept)


def test_steps_of_a_folder_and_of_an_object(tmp_path):
    made = report_of(iterate_folder(tmp_path))
    assert [row.name for row in made.stages] == ["step 1", "step 2"]
    assert [row.validation_accuracy for row in made.stages] == [15 / 16, 14 / 16]
    assert len(table_of(made, "steps").rows) == len(STEPS)
    (chart,) = next(section.charts for section in sections(made) if section.key == "steps")
    assert {line.name: line.xs for line in chart.lines}["tuned"] == (16.0, 12.0)
    cost = sc.measure(small_net(), torch.zeros(1, 1, 8, 8))
    whole = report_of(Iterated(small_net(), identity_plan(small_net(), "", {}), STEPS, cost, cost))
    assert whole.stages[0] == replace(whole.stages[0], name="original", params=cost.params)


def test_a_row_that_is_not_complete_yet_is_left_out(tmp_path):
    folder = iterate_folder(tmp_path)
    with (folder / "steps.jsonl").open("a") as file:
        file.write('{"name": "step-03')
    assert len(report_of(folder).stages) == 2


def test_a_saved_model_is_measured_and_named_by_its_training(tmp_path):
    made = report_of(saved_folder(training_folder(tmp_path)))
    original, saved = made.stages
    cost = sc.measure(pruned().model, torch.zeros(1, 1, 8, 8))
    assert (saved.params, saved.macs) == (cost.params, cost.macs)
    assert saved.size_bytes == (tmp_path / "weights.safetensors").stat().st_size
    assert original.params == sc.measure(small_net(), torch.zeros(1, 1, 8, 8)).params
    assert {"stages", "groups", "training", "gamma"} <= set(keys(made))


def test_a_model_that_cannot_be_built_is_reported_with_the_reason(tmp_path):
    result = pruned()
    plan = result.plan.model_copy(update={"source": "net.py:make"})
    made = report_of(save_model(result.model, plan, tmp_path))
    assert made.stages[-1].macs is None
    assert any("net.py:make" in note for note in made.notes)


def test_the_kept_epoch_is_that_whose_weights_were_saved(tmp_path):
    folder = training_folder(tmp_path)
    assert report_of(folder).stages == ()
    assert report_of(folder).models[0].validation_accuracy == 0.9
    weights = {"weight": torch.full((2,), 3.0)}
    told = signed(
        {"secateur_plan": "of another"}, {name: digest_of(name, one) for name, one in weights.items()}
    )
    save_file(weights, folder / "weights.safetensors", told)
    (stage,) = report_of(folder).stages
    assert stage.validation_accuracy == RECORDS[2].val_accuracy
    assert "the weights are those of epoch 3" in report_of(folder).notes[0]


def test_a_detector_shows_map_by_epoch_where_it_was_measured(tmp_path):
    made = report_of(FOLDERS["detector"](tmp_path))
    (losses, scores) = next(section.charts for section in sections(made) if section.key == "epochs")
    assert losses.lines[0].ys == tuple(record.loss for record in DETECTED)
    assert scores.lines[0].xs == (2, 3)
    assert scores.lines[0].ys == pytest.approx((50, 70))
    assert table_of(made, "epochs").rows[0][-2] == "-"


def test_sweeps_of_strategies_are_compared_by_what_they_cost(tmp_path):
    runs = [percent_folder(tmp_path / name, name) for name in ("normal", "slim", "tiny")]
    made = report_of(runs)
    assert len(made.models) == 3 * len(PERCENTS)
    assert {model.run for model in made.models} == {"normal", "slim", "tiny"}
    (section,) = (section for section in sections(made) if section.key == "models")
    assert [chart.key for chart in section.charts] == ["front-macs", "front-parameters"]
    assert "Validation mAP50" in [column.title for column in section.table.columns]


def test_the_front_holds_what_no_other_model_beats():
    models = (
        ModelRow("a", 0.90, 100, 1000, None, 3.0),
        ModelRow("b", 0.95, 200, 900, None, 4.0),
        ModelRow("c", 0.80, 300, 2000, None, 1.0),
        ModelRow("d", None, 10, 10, None, None),
    )
    made = replace(FULL, stages=(), models=models)
    best = {row[0]: row[-1] for row in table_of(made, "models").rows}
    assert best == {
        "a": "parameters, milliseconds",
        "b": "MACs, parameters, milliseconds",
        "c": "milliseconds",
        "d": "",
    }
    assert "1 of 4 models is without a test accuracy: not in the pictures." in formats["text"](made)


@pytest.mark.parametrize("points", [[], [(None, 1.0)], [(1.0, None)]])
def test_nothing_known_is_no_front(points):
    assert front(points) == ()


def test_scores_of_different_images_do_not_meet_in_one_picture():
    tested = replace(
        FULL, models=(ModelRow("t", 0.9, 10, 10, None, None), ModelRow("u", 0.8, 5, 5, None, None))
    )
    validated = ModelRow("v", None, 1, 1, None, None, validation_accuracy=1.0)
    made = replace(tested, stages=(), models=(*tested.models, validated))
    (section,) = (section for section in sections(made) if section.key == "models")
    assert all(max(line.ys) == 90.0 for chart in section.charts for line in chart.lines)


def test_reports_of_different_metrics_are_not_compared(tmp_path):
    with pytest.raises(RequestError, match=r"metrics differ\n  steps: accuracy\n  yolo: mAP50"):
        report_of([iterate_folder(tmp_path / "steps"), percent_folder(tmp_path / "yolo")])


def test_runs_without_models_are_not_compared(tmp_path):
    with pytest.raises(RequestError, match="nothing to compare in a, b"):
        report_of([FOLDERS["sweep"](tmp_path / "a"), FOLDERS["sweep"](tmp_path / "b")])


def test_a_comparison_has_every_model_of_every_run(tmp_path):
    (tmp_path / "slim").mkdir()
    write_report(FULL, tmp_path / "slim" / "report.json")
    steps = iterate_folder(tmp_path / "steps")
    made = report([tmp_path / "slim", steps, recovered()], tmp_path / "all.html", title="All")
    assert made.title == "All"
    assert [model.name for model in made.models if model.run == "slim"] == ["dense", "pruned", "finetuned"]
    assert len(made.models) == 3 + 2 + 2
    assert [row[0] for row in table_of(made, "runs").rows] == ["slim", "steps", "VGG, pruned"]
    assert "<title>All" in (tmp_path / "all.html").read_text()


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    made = report_of([iterate_folder(tmp_path / "a" / "run"), iterate_folder(tmp_path / "b" / "run")])
    assert {model.run for model in made.models} == {"a/run", "b/run"}
    named = report_of({"first": iterate_folder(tmp_path / "c"), "second": FULL})
    assert {model.run for model in named.models} == {"first", "second"}
    twins = report_of([FULL, FULL])
    assert {model.run for model in twins.models} == {f"{FULL.title} (1)", f"{FULL.title} (2)"}


def test_a_report_in_a_folder_is_the_report_of_the_folder(tmp_path):
    write_report(FULL, tmp_path / "report.json")
    iterate_folder(tmp_path)
    assert report_of(tmp_path) == FULL
    assert report_of(str(tmp_path / "report.json")) == FULL


def test_a_report_of_an_older_version_is_read():
    content = json.loads(formats["json"](FULL))
    for new in ("metric", "models", "more"):
        del content[new]
    for stage in content["stages"]:
        del stage["memory_bytes"], stage["run"]
    assert parse(json.dumps(content)) == FULL


def test_numbers_that_are_not_finite_come_back_from_json():
    records = (replace(DETECTED[0], losses={"box": float("inf"), "classes": 1.0}),)
    made = report_of(replace(OBJECTS["detector"](), history=records, kept_epoch=1))
    again = parse(formats["json"](made))
    assert again.more[0].columns[1].values == (float("inf"),)
    assert again == made


@pytest.mark.parametrize("thing", [3, None, []])
def test_what_is_nothing_to_report_is_refused(thing):
    with pytest.raises(RequestError, match=r"nothing to (report in|compare)"):
        report_of(thing)


def test_folders_that_hold_nothing_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(RequestError, match="nothing to report in"):
        report(tmp_path, tmp_path / "report.html")
    with pytest.raises(RequestError, match="no such file or folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="suffix"):
        report(recovered(), tmp_path / "report.pdf")
    (tmp_path / "steps.jsonl").write_text("no json\n")
    with pytest.raises(CheckpointError, match="holds no rows of a run"):
        report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl"]


def test_the_model_and_the_random_numbers_are_left_alone(tmp_path):
    folder, result = saved_folder(tmp_path), recovered()
    before = {name: value.clone() for name, value in result.model.state_dict().items()}
    state = torch.get_rng_state()
    report_of([folder, result])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in result.model.state_dict().items())


def test_a_verdict_of_a_failed_cut_is_bad_news():
    made = replace(report_of(pruned()), verdict=VerdictRow("failed", float("nan"), 3))
    assert {fact.label: fact.tone for fact in headline(made)}["Verdict"] == "bad"
    assert asdict(made)["verdict"]["status"] == "failed"


def perplexities(**more):
    rows = tuple(
        ModelRow(name, None, params, macs, None, None, validation_accuracy=value)
        for name, params, macs, value in (
            ("original", 10, 100, 16.5),
            ("one", 8, 80, 17.25),
            ("two", 6, 60, 17.0),
        )
    )
    return Report("t", "", "", "m", metric="perplexity", lower_is_better=True, **{"stages": rows, **more})


def test_a_figure_that_is_no_share_is_no_percentage():
    made = perplexities()
    facts = {fact.label: fact for fact in headline(made)}
    assert facts["Validation perplexity"].value == "17"
    assert facts["Validation perplexity"].detail == "16.5 original, +0.5"
    assert "%" not in next(line for line in formats["text"](made).splitlines() if "erplexity" in line)
    assert "1700" not in formats["html"](made)


def test_the_front_of_a_figure_to_lower_holds_the_lowest():
    section = show_models(perplexities(stages=(), models=perplexities().stages))
    on = next(column.values for column in section.columns if column.title == "Best for its")
    assert on == ("MACs, parameters", "", "MACs, parameters")
    assert "has a lower validation perplexity" in section.paragraphs[0]
    assert section.charts[0].ylabel == "validation perplexity"
    assert "17 at 60" in section.charts[0].label


def test_costs_of_two_parts_counted_on_other_inputs_are_not_put_side_by_side():
    long, short = perplexities().stages[-1], ModelRow("saved", None, 6, 30, 48, None)
    known, more = (long,), (ModelRow("original", None, 10, 50, 80, None, memory_bytes=9), short)
    first, last = subjects._stages(known, more)
    assert (first.macs, first.memory_bytes, first.params, first.size_bytes) == (None, None, 10, 80)
    assert (last.macs, last.size_bytes, last.memory_bytes) == (60, 48, None)
