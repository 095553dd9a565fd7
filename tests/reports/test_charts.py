"""Charts: every word lies inside of its picture, settings do not leak, and matplotlib waits for a picture."""

import os
import subprocess
import sys

import matplotlib
import pytest
import torch
from report_samples import FULL
from subject_samples import OBJECTS

from secateur.reports import plots
from secateur.reports.charts import Bars, Line, Lines
from secateur.reports.page import sections
from secateur.reports.subjects import report_of
from secateur.sweep.channels import ChannelSweep, SweepRow
from secateur.sweep.curves import Curves, Point
from secateur.sweep.maps import FeatureMaps

LONG = "model.backbone.features.denseblock3.denselayer24.norm1.convolution"
KINDS = ("fit", "detector", "percents", "channels", "curves", "blocks")


def charts_of(report):
    return [chart for section in sections(report) for chart in section.charts]


def sides_that_are_cut_off(figure):
    """The sides at which something of a figure, as the renderer measures it, is not in the picture."""
    figure.draw_without_rendering()
    drawn, box = figure.get_tightbbox(), figure.bbox_inches
    over = {"left": -drawn.x0, "right": drawn.x1 - box.x1, "below": -drawn.y0, "above": drawn.y1 - box.y1}
    return [side for side, inches in over.items() if inches > 0.01]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written to files."""
    figures, set_title = [], plots.set_title

    def keep(figure, title):
        set_title(figure, title)
        figures.append(figure)

    monkeypatch.setattr(plots, "set_title", keep)
    return figures


@pytest.mark.parametrize("paint", [plots.PAGE, plots.FILE], ids=["page", "file"])
def test_every_word_of_every_chart_lies_inside_of_its_picture(paint):
    made = [chart for kind in KINDS for chart in charts_of(report_of(OBJECTS[kind]()))]
    made += charts_of(FULL)
    assert {type(chart).__name__ for chart in made} == {"Lines", "Bars", "Heat"}
    with plots.own_settings():
        assert [sides_that_are_cut_off(plots.draw(chart, paint)) for chart in made] == [[]] * len(made)


@pytest.mark.parametrize("layer", ["conv1", LONG, LONG.replace(".", "_"), f"{LONG}.{LONG}.{LONG}"])
def test_the_title_of_a_sweep_is_never_clipped(layer, drawn, tmp_path):
    rows = (SweepRow(0, {"accuracy": 0.9}, (0.9,), ()), SweepRow(3, {"accuracy": 0.7}, (0.7,), (1, 2, 0)))
    ChannelSweep(layer, "removed", "activation-mean", torch.zeros(8), rows).plot(tmp_path / "sweep.png")
    maps = FeatureMaps(layer, (0,), torch.zeros(1), torch.rand(1, 4, 4))
    maps.plot(tmp_path / "maps.png")
    assert len(drawn) == 2
    assert [sides_that_are_cut_off(figure) for figure in drawn] == [[], []]
    assert all("".join(figure.get_suptitle().split()).startswith(layer) for figure in drawn)


def test_fifty_long_names_find_room(drawn, tmp_path):
    names = [f"{LONG}.{number}" for number in range(50)]
    points = {name: (Point(name, 0.0, 0, 0.9), Point(name, 0.5, 4, 0.6)) for name in names}
    curves = Curves("activation-mean", points, {}, "groups")
    curves.plot(tmp_path / "curves.png")
    assert sides_that_are_cut_off(drawn[0]) == []
    height = drawn[0].get_axes()[0].get_window_extent().height
    assert height > 0.4 * 4.0 * drawn[0].dpi, "the legend leaves the axes their room"
    chart = curves.chart(12)
    assert len(chart.lines) == 12
    assert "The 12 groups that change most of 50" in chart.caption


def test_words_that_are_cut_off_are_found():
    figure = plots.draw(Lines("k", "", "", "x", "y", (Line("a", (1, 2), (1, 2)),)), plots.FILE)
    assert sides_that_are_cut_off(figure) == []
    figure.text(0.9, 0.5, "much too long to stand here")
    assert sides_that_are_cut_off(figure) == ["right"]


def test_pictures_of_the_user_s_settings_are_the_same_and_the_settings_stay(tmp_path):
    sweep = OBJECTS["percents"]()
    plain = sweep.plot(tmp_path / "plain.svg").read_bytes()
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        assert sweep.plot(tmp_path / "own.svg").read_bytes() == plain
        assert dict(matplotlib.rcParams) == before


def test_bars_may_be_of_nothing():
    bars = Bars("k", "", "", "x", (), (), ())
    assert plots.picture(bars).svg.startswith("<svg")


def test_only_pictures_need_matplotlib():
    script = """
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("matplotlib was asked for")
sys.meta_path.insert(0, No())
from report_samples import FULL
from secateur.reports.formats import formats
print([name for name in ("text", "markdown", "json") if "VGG" in formats[name](FULL)])
try:
    formats["html"](FULL)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment())
    assert done.stdout == "['text', 'markdown', 'json']\nmatplotlib was asked for\n", done.stderr


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
