"""The HTML report: well formed, self-contained, accessible, and its pictures stay small and deterministic."""

import functools
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import pytest
from report_samples import EMPTY, FULL

from secateur.reports import plots
from secateur.reports.content import Curve, GammaHistory, GroupRow, LayerRow
from secateur.reports.formats.html import LONG_TABLE, html
from secateur.reports.sections.gamma import scale_chart
from secateur.reports.sections.layers import channel_chart
from secateur.reports.sections.training import training_charts

VOID = {"meta", "br", "hr", "img", "link", "input"}
NASTY = "<script>alert('1')</script> & \"$x$\" </style> \x07"


class Page(HTMLParser):
    """Check that every tag is closed in order, and collect tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.shown = [], Counter(), [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown += data


@functools.cache
def full_page():
    return html(FULL)


def nasty_report():
    return replace(
        FULL,
        title=NASTY,
        model=NASTY,
        command=NASTY,
        notes=(NASTY,),
        written=((NASTY, NASTY),),
        stages=(replace(FULL.stages[0], name=NASTY, note=NASTY),),
        layers=(LayerRow(NASTY, NASTY, 2, 1, 2, 1, 2, 1),),
        groups=(GroupRow(NASTY, 2, 1, "protected", NASTY),),
        curves=(Curve(NASTY, (1,), (0.5,), (0.5,), (0.5,), (0.1,)), Curve("_hidden", (1,), (0.5,))),
        split=replace(FULL.split, data_set=NASTY),
    )


@pytest.mark.parametrize("report", [FULL, EMPTY, nasty_report()], ids=["full", "empty", "nasty"])
def test_the_page_is_well_formed_and_loads_nothing(report):
    text = html(report)
    page = Page(text)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["img"] == 0
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    loads = [
        (tag, value) for tag, name, value in page.attributes if name in ("src", "href", "data", "action")
    ]
    assert all(value.startswith(("#", "data:image/png;base64,")) for _, value in loads)
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_every_reference_has_its_target():
    text = full_page()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    labels = [value for _, name, value in page.attributes if name == "aria-labelledby"]
    references = [value[1:] for _, name, value in page.attributes if name == "href" and value[0] == "#"]
    assert set(labels + references) <= set(page.ids)


def test_foreign_text_is_shown_and_never_markup():
    page = Page(html(nasty_report()))
    assert page.tags["style"] == len(re.findall("<style", full_page()))
    assert page.shown.count("<script>alert('1')</script> & \"$x$\"") >= 10


def test_every_picture_says_what_it_shows():
    page = Page(full_page())
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert page.tags["svg"] == page.tags["figure"] == page.tags["figcaption"] == len(labels) == 5
    assert "features.0 64 to 20" in labels[0]
    assert sum(pair == ("svg", "role", "img") for pair in page.attributes) == 5


def test_numbers_are_set_to_the_right_and_rows_have_headers():
    text = full_page()
    assert '<td class="number">98.33</td>' in text
    assert '<th scope="row">finetuned</th>' in text
    assert 'scope="col" class="number">Latency <span class="unit">(ms)</span>' in text


def test_it_follows_the_colour_scheme_and_prints():
    text = full_page()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert not any(sentinel in text for sentinel in plots.COLOURS)
    assert "var(--series-1" in text


def test_a_long_table_is_folded():
    groups = tuple(GroupRow(f"g{i}", 4, 4, "protected", "reason") for i in range(LONG_TABLE + 1))
    assert Page(html(replace(FULL, groups=groups))).tags["details"] == 1
    assert Page(html(replace(FULL, groups=groups[1:]))).tags["details"] == 0


@pytest.mark.parametrize(
    ("part", "pictures"),
    [({"gamma": None}, 4), ({"curves": ()}, 2), ({"layers": ()}, 4), ({"gamma": None, "curves": ()}, 1)],
)
def test_pictures_vanish_with_their_data(part, pictures):
    assert Page(html(replace(FULL, **part))).tags["svg"] == pictures


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    plots.picture(scale_chart(FULL.gamma))
    assert dict(matplotlib.rcParams) == before


def test_settings_of_the_user_do_not_change_the_picture():
    plain = [plots.picture(chart) for chart in training_charts(FULL.curves)]
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "text.usetex": True}):
        assert [plots.picture(chart) for chart in training_charts(FULL.curves)] == plain


def test_pictures_stay_small_and_say_what_they_leave_out():
    layers = [LayerRow(f"block.{i}.conv", "Conv2d", 64, 64 - i % 7, 9, 9, 9, 9) for i in range(1000)]
    picture = plots.picture(channel_chart(tuple(layers)))
    assert len(picture.svg) < 200_000
    assert "The 80 layers that lost most of 1,000" in picture.caption
    history = GammaHistory(tuple(range(101)), ((5, 0) * 50,) * 500, 7.0)
    assert len(plots.picture(scale_chart(history)).svg) < 100_000


def test_a_loss_that_is_never_finite_has_no_picture():
    curve = Curve("diverged", (1, 2), (float("nan"), float("inf")))
    assert training_charts([curve]) == ()


def test_low_early_accuracies_are_cut_off_and_the_caption_says_so():
    caption = training_charts([Curve("dense", (1, 2), val_accuracy=(0.1, 0.99))])[0].caption
    assert "more than 20 points below the best are cut off" in caption
    assert "cut off" not in training_charts([Curve("dense", (1, 2), val_accuracy=(0.9, 0.99))])[0].caption
