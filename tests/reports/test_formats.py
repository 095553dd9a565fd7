"""The report as text, Markdown and JSON: golden text, round trips, and what must hold for every format."""

import json
import pkgutil
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from report_samples import EMPTY, FULL, WITHOUT

from secateur.errors import CheckpointError, RequestError
from secateur.reports import formats as reports
from secateur.reports.content import Curve, GammaHistory, GroupRow, LayerRow, ModelRow, VerdictRow
from secateur.reports.formats import formats, suffixes, write_report
from secateur.reports.formats.json import parse, read_report
from secateur.reports.formats.text import WIDTH, render
from secateur.reports.page import headline, sections
from secateur.reports.section import Column, Table

GOLDEN = Path(__file__).parent / "golden"
SECTION_OF = {"curves": "training"}


def test_every_format_is_named_like_its_module_and_has_a_suffix():
    assert sorted(formats) == sorted(module.name for module in pkgutil.iter_modules(reports.__path__))
    assert sorted(formats) == ["html", "json", "markdown", "text"]
    assert {suffixes[suffix] for suffix in suffixes} == {formats[name] for name in formats}


@pytest.mark.parametrize(("name", "file"), [("text", "report.txt"), ("markdown", "report.md")])
def test_golden(name, file):
    assert formats[name](FULL) == (GOLDEN / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(formats))
def test_the_same_report_gives_the_same_bytes(name):
    assert formats[name](FULL) == formats[name](replace(FULL))


@pytest.mark.parametrize("name", sorted(formats))
def test_every_format_renders_a_report_without_content(name):
    assert EMPTY.title in formats[name](EMPTY)


@pytest.mark.parametrize("part", sorted(WITHOUT))
def test_sections_vanish_when_empty(part):
    keys = {section.key for section in sections(FULL)}
    left = {section.key for section in sections(replace(FULL, **{part: WITHOUT[part]}))}
    assert keys - left == {SECTION_OF.get(part, part)}


def test_a_history_of_no_scales_is_no_section():
    report = replace(FULL, gamma=GammaHistory((0.0, 1.0), ((0,), (0,))))
    assert "gamma" not in {section.key for section in sections(report)}


def test_columns_of_what_was_not_measured_vanish():
    stages = (ModelRow("dense", None, 10, 10, 10, None), ModelRow("pruned", None, 5, 5, 5, None))
    table = sections(replace(EMPTY, stages=stages))[0].table
    assert [column.title for column in table.columns] == ["Stage", "Parameters", "MACs", "File"]


def test_the_headline_compares_the_last_stage_with_the_first():
    facts = {fact.label: (fact.value, fact.detail) for fact in headline(FULL)}
    assert facts["Test accuracy"] == ("98.33 %", "98.61 % dense, -0.28 points")
    assert facts["Latency"] == ("2.8x faster", "3.41 ms to 1.20 ms")


def test_the_headline_says_slower_when_it_is_slower():
    slower = replace(FULL.stages[-1], latency_ms=6.824)
    facts = {fact.label: fact.value for fact in headline(replace(FULL, stages=(FULL.stages[0], slower)))}
    assert facts["Latency"] == "2.0x slower"


def test_one_stage_is_stated_not_compared():
    facts = headline(replace(EMPTY, stages=FULL.stages[:1]))
    assert [fact.value for fact in facts] == ["98.61 %", "9.23 M", "152.90 M", "3.41 ms"]


def test_choosing_on_the_test_images_is_called_flattering():
    report = replace(FULL, split=replace(FULL.split, chosen_on="test"))
    assert "flatters" in formats["text"](report)
    assert "flatters" not in formats["text"](FULL)


def test_text_keeps_to_its_width_with_long_names_and_reasons():
    name = "features.denseblock3.denselayer24.norm1.convolution"
    layers = (LayerRow(name, "ConvTranspose2d", 2048, 1024, 10**9, 10**8, 10**12, 10**11),)
    groups = (GroupRow(name, 2048, 2048, "protected", "no rule covers aten.grid_sampler, " * 8),)
    text = formats["text"](replace(FULL, layers=layers, groups=groups, notes=("word " * 60,)))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("aten.grid_sampler") == 8


def test_text_never_breaks_a_path():
    path = "/" + "/".join(["folder"] * 30) + "/report.html"
    assert path in formats["text"](replace(FULL, written=(("report", path),)))


def test_text_lets_no_control_character_through():
    text = formats["text"](replace(FULL, title="\x1b[31mred\nline", model="a\tb\x07"))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.startswith("\\x1b[31mred line\n")


def test_markdown_shows_foreign_names_as_they_are():
    name = "a|b `c` <script>*x*_y_</script> [l](u) $z$ &amp;"
    rows = (LayerRow(name, name, 2, 1, 2, 1, 2, 1),)
    page = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(
            formats["markdown"](replace(EMPTY, title=name, layers=rows, notes=(f"- {name}", f"1. {name}")))
        )
    )
    shown = "a|b `c` &lt;script&gt;*x*_y_&lt;/script&gt; [l](u) $z$ &amp;amp;"
    assert f"<h1>{shown}</h1>" in page
    assert f"<td><code>{shown}</code></td>" in page
    assert f"<td>{shown}</td>" in page
    assert f"<li>- {shown}</li>" in page
    assert f"<li>1. {shown}</li>" in page


def test_markdown_tables_are_tables():
    page = MarkdownIt("commonmark").enable("table").render(formats["markdown"](FULL))
    tables = [section for section in sections(FULL) if section.table]
    assert page.count("<table>") == len(tables)
    assert page.count("<tbody>") == len(tables)


def test_markdown_fences_a_command_that_holds_a_fence():
    page = MarkdownIt().render(formats["markdown"](replace(EMPTY, command="echo ```\n# not a title")))
    assert "<code>echo ```\n# not a title\n</code>" in page


def test_json_round_trips():
    assert parse(formats["json"](FULL)) == FULL
    assert parse(formats["json"](EMPTY)) == EMPTY


def test_json_holds_every_field_unrounded():
    content = json.loads(formats["json"](FULL))
    assert content["stages"][0]["accuracy"] == 0.98611
    assert content["verdict"] == {
        "status": "exact",
        "relative_error": 1.284e-15,
        "nodes_checked": 57,
        "detail": "",
    }


def test_json_keeps_numbers_that_are_not_finite():
    curve = Curve("diverged", (1, 2), (1.0, float("inf")))
    report = replace(EMPTY, curves=(curve,), verdict=VerdictRow("failed", float("nan"), 3))
    text = formats["json"](report)
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    back = parse(text)
    assert back.curves == (curve,)
    assert back.verdict.relative_error != back.verdict.relative_error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": "secateur-rep', "is no JSON"),
        ("[]", "no report of schema"),
        ('{"schema": "other"}', "no report of schema"),
        ('{"schema": "secateur-report-1"}', "is no report\n  title"),
        (formats["json"](FULL).replace('"exact"', '"perfect"'), "verdict.status"),
        (formats["json"](FULL).replace("0.5,\n      1.0", "0.5"), "bins but the edges"),
    ],
)
def test_foreign_json_is_refused_with_the_place(text, message):
    with pytest.raises(CheckpointError, match=message):
        parse(text)


@pytest.mark.parametrize("suffix", [".txt", ".json", ".md", ".html", ".HTML"])
def test_write_report_picks_the_format_by_suffix(tmp_path, suffix):
    path = write_report(FULL, tmp_path / f"report{suffix}")
    assert path.read_text(encoding="utf-8") == suffixes[suffix.lower()](FULL)


def test_a_written_report_can_be_read(tmp_path):
    assert read_report(write_report(FULL, tmp_path / "report.json")) == FULL


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_an_unknown_suffix_is_refused_and_nothing_written(tmp_path, name):
    with pytest.raises(RequestError, match=r"known: \.html, \.json, \.md, \.txt"):
        write_report(FULL, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_no_unicode_does_not_stop_the_report(tmp_path):
    report = replace(FULL, written=(("plan", "caf\udce9/plan.json"),))
    assert b"caf\\udce9" in write_report(report, tmp_path / "report.txt").read_bytes()


@pytest.mark.parametrize(
    ("edges", "counts", "message"),
    [((0.0, 1.0), ((1, 2),), "2 bins"), ((0.0, 0.0), ((1,),), "do not increase")],
)
def test_a_histogram_that_does_not_fit_its_edges_is_refused(edges, counts, message):
    with pytest.raises(ValueError, match=message):
        GammaHistory(edges, counts)


def test_a_table_of_wide_numbers_stacks_its_headers():
    columns = (Column("Name", kind="code"), Column("Multiply accumulates after", "G", "number"))
    text = render(Table(columns, (("conv", "1.5"),)), width=20)
    assert text.splitlines()[:2] == ["         Multiply", "      accumulates"]
