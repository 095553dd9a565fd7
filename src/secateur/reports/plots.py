"""Charts drawn: as SVG that fits into a page, or as a PNG or SVG file of their own.

For a page matplotlib draws in sentinel colours, which are then replaced by CSS variables, so that one picture
follows the light or dark page around it. Letters stay letters and take the page's font. The same data always
gives the same bytes, whatever the user's settings. A histogram is one bitmap, so pictures stay small.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from secateur.errors import RequestError
from secateur.extras import extra
from secateur.reports.charts import Bars, Chart, Heat, Line, Lines
from secateur.write.atomic import atomic_write

with extra("report", "pictures"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH_INCH = {"page": 4.8, "file": 6.4}
NAME_LENGTH = 26
FEW_POINTS = 12
STEPS = [1, 2, 5, 10]
FONT_POINTS = 9.0
TITLE_POINTS = 11.0
MARGIN_PIXELS = 8

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "osD^vP*X"
# More is stronger, on white as on black: the background shows through where there is little.
HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.0, (0.20, 0.60, 0.85, 0.18)), (0.5, (0.15, 0.50, 0.85, 0.60)), (1.0, (0.10, 0.36, 0.82, 1.0))]
)


@dataclass(frozen=True)
class Paint:
    """The colours of a picture: words and axes, hairlines, the series, what must be seen."""

    target: str
    ink: str
    faint: str
    series: tuple[str, ...]
    alarm: str


# The series are Okabe and Ito's colour-blind-safe palette; a page's style sheet adjusts it to its colour
# scheme, and an SVG that stands alone falls back on it.
FILE = Paint("file", "#333333", "#b0b5bb", ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), "#d55e00")
PAGE = Paint("page", "#010203", "#010204", ("#010205", "#010206", "#010207", "#010208"), "#010209")
COLOURS = {
    PAGE.ink: "var(--ink, #555)",
    PAGE.faint: "var(--line, #999)",
    **{PAGE.series[i]: f"var(--series-{i + 1}, {FILE.series[i]})" for i in range(4)},
    PAGE.alarm: f"var(--alarm, {FILE.alarm})",
}


@dataclass(frozen=True)
class Picture:
    """A drawing with the words that go with it.

    Args:
        svg: An `<svg>` element, ready to stand in a page.
        label: What a reader who cannot see it needs to know.
        caption: How to read it.
    """

    svg: str
    label: str
    caption: str


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draw with settings of our own, whatever the user's are, and put those back."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "secateur", "font.size": FONT_POINTS})
        yield


@own_settings()
def picture(chart: Chart) -> Picture:
    """Draw a chart for a page.

    Example:
        >>> lines = (Line("dense", (1, 2), (2, 1)),)
        >>> picture(Lines("loss", "Loss falls.", "Loss.", "epoch", "loss", lines)).label
        'Loss falls.'
    """
    matplotlib.rcParams["svg.fonttype"] = "none"
    return Picture(_svg(draw(chart, PAGE), chart.key), chart.label, chart.caption)


def save_chart(chart: Chart, path: Path | str, title: str) -> Path:
    """Draw a chart into a file.

    Args:
        chart: What to draw.
        path: A `.png` or `.svg` file; it is complete or not there.
        title: What it shows; broken into lines where it is too wide.

    Returns:
        The path.

    Raises:
        RequestError: Another kind of file.
        SecateurError: It cannot be written.
    """
    return save_figure(lambda: draw(chart, FILE), path, title)


def save_figure(make: Callable[[], Figure], path: Path | str, title: str) -> Path:
    """Make a figure, with a title, and write it as `save_chart` does."""
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise RequestError(f"cannot draw {path.name}", do="name a .png or .svg file")
    with own_settings():
        figure = make()
        set_title(figure, title)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        atomic_write(path, lambda file: figure.savefig(file, dpi=150, metadata=metadata))
    return path


def set_title(figure: Figure, title: str) -> None:
    """Put a title above a figure, on as many lines as its width asks for, and make room for them."""
    text = figure.suptitle("", fontsize=TITLE_POINTS)
    shown = _printable(title)
    for width in range(len(shown), 7, -1):
        text.set_text(fill(shown, width, break_on_hyphens=False).replace("$", r"\$"))
        if text.get_window_extent().width <= figure.bbox.width - 2 * MARGIN_PIXELS:
            break
    lines = text.get_text().count("\n")
    figure.set_figheight(figure.get_figheight() + 1.3 * lines * TITLE_POINTS / 72)


def draw(chart: Chart, paint: Paint) -> Figure:
    """Draw a chart in some colours."""
    if isinstance(chart, Lines):
        return _lines(chart, paint)
    return _bars(chart, paint) if isinstance(chart, Bars) else _heat(chart, paint)


def _lines(chart: Lines, paint: Paint) -> Figure:
    figure, axes = _axes(paint, {"page": 2.9, "file": 4.0}[paint.target])
    names = list(dict.fromkeys(line.name for line in chart.lines))
    drawn: dict[str, Any] = {}
    for line in chart.lines:
        place = names.index(line.name) if line.place is None else line.place
        looks = _looks(line, place, paint)
        (artist,) = axes.plot(line.xs, line.ys, **looks)
        if line.looks != "pale" or line.name not in drawn:
            drawn[line.name] = artist
        if line.ring is not None:
            ring = {"ms": 7, "mfc": "none", "mew": 1.4, "mec": looks["color"]}
            axes.plot(line.xs[line.ring], line.ys[line.ring], "o", **ring)
    for band in chart.bands:
        if band.start == band.end:
            drawn[band.name] = axes.axvline(band.start, color=paint.ink, linestyle=":", linewidth=1.2)
        else:
            colour = paint.series[3]
            drawn[band.name] = axes.axvspan(band.start, band.end, color=colour, alpha=0.25, linewidth=0)
    axes.set(xlabel=chart.xlabel, ylabel=chart.ylabel)
    axes.set_ylim(chart.least, chart.most)
    if chart.is_whole:
        places = [x for line in chart.lines for x in line.xs]
        axes.set_xlim(min(places, default=0) - 0.5, max(places, default=0) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=STEPS, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color=paint.faint, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    if len(drawn) > 1 or paint.target == "page":
        _legend(figure, drawn, paint)
    return figure


def _looks(line: Line, place: int, paint: Paint) -> dict[str, Any]:
    """How a line of this place is drawn: colours come first, then dashes or markers."""
    colour = paint.series[place % len(paint.series)]
    if line.looks == "points":
        return {
            "color": colour,
            "linestyle": "none",
            "marker": MARKERS[place % len(MARKERS)],
            "markersize": 6,
        }
    if line.looks == "front":
        return {"color": paint.ink, "linestyle": (0, (4, 2)), "linewidth": 1.2, "zorder": 1}
    dash = DASHES[(place + place // len(DASHES)) % len(DASHES)]
    looks = {"color": colour, "linewidth": 1.8, "linestyle": dash}
    if line.looks == "pale":
        looks |= {"alpha": 0.45, "linewidth": 1.0}
    if len(line.xs) <= FEW_POINTS:
        looks |= {"marker": "o", "markersize": 3}
    return looks


def _bars(chart: Bars, paint: Paint) -> Figure:
    figure, axes = _axes(paint, 0.42 + 0.215 * max(len(chart.names), 1))
    places = range(len(chart.names))
    wholes = chart.wholes or chart.values
    if chart.wholes:
        axes.barh(places, chart.wholes, height=0.66, color=paint.series[0], alpha=0.22, linewidth=0)
    axes.barh(places, chart.values, height=0.66, color=paint.series[0], linewidth=0)
    widest = max((*wholes, *chart.values, chart.line or 0), default=0) or 1
    for i, words in enumerate(chart.words):
        end = max(wholes[i], chart.values[i]) + 0.012 * widest
        axes.text(end, i, words, va="center_baseline", ha="left", color=paint.ink, fontsize=FONT_POINTS - 0.5)
    if chart.line is not None:
        axes.axvline(chart.line, color=paint.alarm, linewidth=1.5, linestyle=(0, (5, 2.5)))
    axes.set_yticks(list(places), [_shorten(name) for name in chart.names])
    axes.set(xlim=(0, 1.3 * widest), ylim=(len(chart.names) - 0.4, -0.6))
    ticks = MaxNLocator(5, integer=True, steps=STEPS).tick_values(0, widest)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= widest])
    axes.spines["bottom"].set_bounds(0, widest)
    axes.set_xlabel(chart.xlabel, x=0.5 / 1.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def _heat(chart: Heat, paint: Paint) -> Figure:
    figure, axes = _axes(paint, 3.1)
    counts = np.array(chart.counts, dtype=float).T
    epochs = np.arange(counts.shape[1] + 1) + 0.5
    most = max(counts.max(initial=0), 2)
    mesh = axes.pcolormesh(
        epochs,
        np.array(chart.edges),
        np.ma.masked_equal(counts, 0),
        cmap=HEAT,
        norm=LogNorm(1, most),
        rasterized=True,
    )
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.045, aspect=28)
    powers = [10**power for power in range(int(np.log10(most)) + 1)]
    bar.set_ticks(powers, labels=[f"{power:,}" for power in powers])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(edgecolor="none", rasterized=True)
    bar.ax.tick_params(color=paint.faint, labelcolor=paint.ink, labelsize=FONT_POINTS - 0.5)
    bar.set_label("scales per bin", color=paint.ink, fontsize=FONT_POINTS)
    axes.set(xlabel=chart.xlabel, ylabel=chart.ylabel, xlim=(epochs[0], epochs[-1]))
    filled = np.flatnonzero(counts.sum(axis=1))
    axes.set_ylim(chart.edges[0], chart.edges[filled[-1] + 1 if filled.size else -1])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=STEPS, min_n_ticks=1))
    if chart.line is not None:
        axes.axhline(chart.line, color=paint.alarm, linewidth=1.5, linestyle=(0, (5, 2.5)))
    return figure


def _axes(paint: Paint, height_inch: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCH[paint.target], height_inch), layout="constrained")
    axes = figure.add_subplot()
    for side, spine in axes.spines.items():
        spine.set(color=paint.faint, visible=side in ("left", "bottom"))
    axes.tick_params(color=paint.faint, labelcolor=paint.ink, labelsize=FONT_POINTS - 0.5)
    axes.xaxis.label.set(color=paint.ink, fontsize=FONT_POINTS)
    axes.yaxis.label.set(color=paint.ink, fontsize=FONT_POINTS)
    return figure, axes


def _legend(figure: Figure, drawn: dict[str, Line2D], paint: Paint) -> None:
    """Name what is drawn, in as many columns as the widest name allows, and make room for the rows."""
    labels = [_shorten(name) for name in drawn]
    widest = 0.62 + 0.082 * max(map(len, labels), default=0)
    columns = max(1, min(4, int(figure.get_figwidth() / widest)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * (rows - 1))
    figure.legend(
        list(drawn.values()),
        labels,
        loc="outside upper left" if paint.target == "page" else "outside lower left",
        ncols=columns,
        frameon=False,
        labelcolor=paint.ink,
        fontsize=FONT_POINTS,
        handlelength=2.4,
    )


def _svg(figure: Any, name: str) -> str:
    """Render to an SVG element with CSS colours, no date, and identifiers that are unique on a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))
    defined: set[str] = set()

    def identify(match: re.Match[str]) -> str:
        """Keep an identifier where it is first defined, if it is used; the same one is the same shape."""
        if match[1] not in used or match[1] in defined:
            return ""
        defined.add(match[1])
        return f' id="{name}-{match[1]}"'

    svg = re.sub(r' id="([^"]+)"', identify, svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for drawn, shown in COLOURS.items():
        svg = svg.replace(drawn, shown)
    return svg


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else " " for char in name)


def _shorten(name: str) -> str:
    """Cut a long name on its left, at a dot if there is one: the right end tells layers apart."""
    plain = _printable(name)
    if len(plain) > NAME_LENGTH:
        end = plain[-NAME_LENGTH + 1 :]
        plain = f"…{end.partition('.')[2] or end}"
    return plain.replace("$", r"\$")
