"""`secateur report` and `secateur prune --report`."""

import contextlib
import io
import json

import pytest
from subject_samples import iterate_folder, percent_folder, training_folder

from secateur.cli import main

NET = ("zoo:vgg11", "--arg", "width=0.0625", "--arg", "in_channels=1", "--arg", "image_size=8")


def secateur(*words):
    """Exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            return end.code or 0, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_prune_writes_a_report_and_its_folder_is_reported_on(tmp_path):
    page, half = tmp_path / "half.html", tmp_path / "half"
    code, out, err = secateur("prune", *NET, "--ratio", 0.5, "--save", half, "--report", page, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["report"] == str(page)
    assert '<h2 id="verdict-title">' in page.read_text()
    assert "feature.0" in page.read_text()
    code, out, err = secateur("report", half)
    assert code == 0, err
    assert f"{told['before']['params']:,}" in out or f"{told['before']['params'] / 1000:,.2f}" in out
    code, out, err = secateur("report", half, training_folder(tmp_path / "trained"), "--json")
    assert code == 0, err
    inner = json.loads(json.loads(out)["report"])
    assert [model["run"] for model in inner["models"]] == ["half", "half", "trained"]
    assert inner["models"][1]["macs"] == told["after"]["macs"]


def test_a_suffix_without_a_format_is_refused_before_the_work(tmp_path):
    code, out, err = secateur(
        "prune", *NET, "--ratio", 0.5, "--save", tmp_path / "h", "--report", "report.pdf"
    )
    assert (code, out) == (2, "")
    assert "cannot tell the format of report report.pdf" in err
    assert not (tmp_path / "h").exists()


def test_several_runs_are_written_as_one_page(tmp_path):
    runs = [percent_folder(tmp_path / name, name) for name in ("normal", "slim")]
    page = tmp_path / "all.html"
    assert secateur("report", *runs, "--out", page)[1] == f"wrote {page}\n"
    assert "Comparison of 2 runs" in page.read_text()


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "no such file or folder"), ("", "nothing to report in")]
)
def test_what_is_no_run_is_refused(tmp_path, name, message):
    code, out, err = secateur("report", tmp_path / name)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_run_that_goes_on_can_be_reported_on(tmp_path):
    assert "step 2" in secateur("report", iterate_folder(tmp_path))[1]
