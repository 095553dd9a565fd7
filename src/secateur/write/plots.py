"""The pictures of a report, as SVG that fits into a page.

Matplotlib draws in sentinel colours, which are then replaced by CSS variables, so that one picture follows
the light or dark page around it. Letters stay letters and take the page's font. The same data always gives
the same bytes. Pictures stay small whatever the data: a histogram is one bitmap, a long list is cut and the
caption says so.
"""

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secateur.write.report import Curve, GammaHistory, LayerRow

WIDTH_INCH = 4.8
LAYERS_SHOWN = 80
NAME_LENGTH = 26
POINTS_SHOWN = 20
FEW_EPOCHS = 12
STEPS = [1, 2, 5, 10]
FONT_POINTS = 9.0

# What matplotlib draws with -> what the page shows. The series are Okabe and Ito's colour-blind-safe palette,
# adjusted per colour scheme by the style sheet, with a fallback for an SVG that stands alone.
INK, FAINT, SERIES = "#010203", "#010204", ("#010205", "#010206", "#010207", "#010208")
ALARM = "#010209"
COLOURS = {
    INK: "var(--ink, #555)",
    FAINT: "var(--line, #999)",
    SERIES[0]: "var(--series-1, #0072b2)",
    SERIES[1]: "var(--series-2, #d55e00)",
    SERIES[2]: "var(--series-3, #009e73)",
    SERIES[3]: "var(--series-4, #cc79a7)",
    ALARM: "var(--alarm, #d55e00)",
}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
# More is stronger, on white as on black: the background shows through where there is little.
HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.0, (0.20, 0.60, 0.85, 0.18)), (0.5, (0.15, 0.50, 0.85, 0.60)), (1.0, (0.10, 0.36, 0.82, 1.0))]
)


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
def _own_settings() -> Iterator[None]:
    """Draw with settings of our own, whatever the user's are, and put those back."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"svg.hashsalt": "secateur", "svg.fonttype": "none", "font.size": FONT_POINTS}
        )
        yield


@_own_settings()
def channels(layers: Sequence[LayerRow]) -> Picture:
    """Draw kept channels over the original ones, a bar per layer.

    Example:
        >>> picture = channels([LayerRow("features.0", "Conv2d", 64, 20, 1728, 540, 110_592, 34_560)])
        >>> picture.label
        'Bar chart of output channels per layer: features.0 64 to 20.'
    """
    shown = list(layers)
    caption = "Solid: channels kept. Pale: channels removed."
    if len(shown) > LAYERS_SHOWN:
        lost = sorted(range(len(shown)), key=lambda i: shown[i].channels_after - shown[i].channels_before)
        shown = [layers[i] for i in sorted(lost[:LAYERS_SHOWN])]
        caption += f" The {LAYERS_SHOWN} layers that lost most of {len(layers):,}; the table lists all."
    axes = _axes(height_inch=0.42 + 0.215 * len(shown))
    place = range(len(shown))
    before, after = [row.channels_before for row in shown], [row.channels_after for row in shown]
    axes.barh(place, before, height=0.66, color=SERIES[0], alpha=0.22, linewidth=0)
    axes.barh(place, after, height=0.66, color=SERIES[0], linewidth=0)
    widest = max(before, default=0) or 1
    for i, row in enumerate(shown):
        end = max(row.channels_before, row.channels_after) + 0.012 * widest
        axes.text(end, i, _kept(row), va="center_baseline", ha="left", color=INK, fontsize=FONT_POINTS - 0.5)
    axes.set_yticks(list(place), [_shorten(row.name) for row in shown])
    axes.set(xlim=(0, 1.3 * widest), ylim=(len(shown) - 0.4, -0.6))
    ticks = MaxNLocator(5, integer=True, steps=STEPS).tick_values(0, widest)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= widest])
    axes.spines["bottom"].set_bounds(0, widest)
    axes.set_xlabel("output channels", x=0.5 / 1.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    pairs = [f"{row.name} {row.channels_before:,} to {row.channels_after:,}" for row in shown]
    label = f"Bar chart of output channels per layer: {', '.join(pairs)}."
    return Picture(_svg(axes.figure, "channels"), label, caption)


@_own_settings()
def scales(gamma: GammaHistory) -> Picture:
    """Draw the histogram of batch-norm scales over the epochs, on a logarithmic count scale.

    Example:
        >>> scales(GammaHistory((0.0, 0.5, 1.0), ((3, 61), (40, 24)), threshold=0.02)).caption
        'Stronger colour: more scales, counted on a logarithmic scale. Dashed line: pruning threshold 0.02.'
    """
    axes = _axes(height_inch=3.1)
    counts = np.array(gamma.counts, dtype=float).T
    epochs = np.arange(counts.shape[1] + 1) + 0.5
    most = max(counts.max(initial=0), 2)
    mesh = axes.pcolormesh(
        epochs,
        np.array(gamma.edges),
        np.ma.masked_equal(counts, 0),
        cmap=HEAT,
        norm=LogNorm(1, most),
        rasterized=True,
    )
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.045, aspect=28)
    powers = [10**power for power in range(int(np.log10(most)) + 1)]
    bar.set_ticks(powers, labels=[f"{power:,}" for power in powers])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(edgecolor="none", rasterized=True)
    bar.ax.tick_params(color=FAINT, labelcolor=INK, labelsize=FONT_POINTS - 0.5)
    bar.set_label("scales per bin", color=INK, fontsize=FONT_POINTS)
    axes.set(xlabel="epoch", ylabel="|gamma|", xlim=(epochs[0], epochs[-1]))
    filled = np.flatnonzero(counts.sum(axis=1))
    axes.set_ylim(gamma.edges[0], gamma.edges[filled[-1] + 1 if filled.size else -1])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=STEPS, min_n_ticks=1))
    caption = "Stronger colour: more scales, counted on a logarithmic scale."
    label = f"Heat map of batch-norm scales over {counts.shape[1]:,} epochs"
    if gamma.threshold is not None:
        axes.axhline(gamma.threshold, color=ALARM, linewidth=1.5, linestyle=(0, (5, 2.5)))
        caption += f" Dashed line: pruning threshold {gamma.threshold:.3g}."
        label += f", with the pruning threshold at {gamma.threshold:.3g}"
    return Picture(_svg(axes.figure, "scales"), f"{label}.", caption)


@_own_settings()
def training(curves: Sequence[Curve]) -> tuple[Picture, ...]:
    """Draw loss and accuracy over the epochs; what was not recorded is left out.

    Example:
        >>> [picture.label for picture in training([Curve("dense", (1, 2), train_loss=(1.2, 0.7))])]
        ['Line chart of training loss: dense ends at 0.7.']
    """
    return _loss(curves) + _accuracy(curves)


@_own_settings()
def near_zero(curves: Sequence[Curve]) -> tuple[Picture, ...]:
    """Draw the share of batch-norm scales near zero over the epochs, if it was recorded.

    Example:
        >>> near_zero([Curve("sparse", (1, 2), near_zero_share=(0.1, 0.72))])[0].label
        'Line chart of the share of batch-norm scales near zero: sparse ends at 72.00 %.'
        >>> near_zero([Curve("dense", (1, 2))])
        ()
    """
    axes = _axes(height_inch=3.1)
    drawn = _draw(axes, curves, [_percent(curve.near_zero_share or ()) for curve in curves])
    if not drawn:
        return ()
    _finish(axes, drawn, curves, "scales near zero (%)")
    axes.set_ylim(0, 102)
    ends = [
        f"{curve.label} ends at {100 * curve.near_zero_share[-1]:.2f} %"
        for curve in curves
        if curve.near_zero_share
    ]
    label = f"Line chart of the share of batch-norm scales near zero: {', '.join(ends)}."
    caption = "Share of batch-norm scales near zero: how much can be pruned at little cost."
    return (Picture(_svg(axes.figure, "near-zero"), label, caption),)


def _loss(curves: Sequence[Curve]) -> tuple[Picture, ...]:
    axes = _axes(height_inch=2.9)
    drawn = _draw(axes, curves, [curve.train_loss for curve in curves])
    if not drawn:
        return ()
    _finish(axes, drawn, curves, "training loss")
    axes.set_ylim(bottom=0)
    ends = [f"{curve.label} ends at {curve.train_loss[-1]:.3g}" for curve in curves if curve.train_loss]
    label = f"Line chart of training loss: {', '.join(ends)}."
    return (Picture(_svg(axes.figure, "loss"), label, "Training loss."),)


def _accuracy(curves: Sequence[Curve]) -> tuple[Picture, ...]:
    """Draw accuracies; the lowest, early ones are cut off where they would flatten all others."""
    axes, ends = _axes(height_inch=2.9), []
    fitted = [_percent(curve.train_accuracy) for curve in curves]
    validated = [_percent(curve.val_accuracy) for curve in curves]
    drawn = _draw(axes, curves, fitted, alpha=0.45, linewidth=1.0)
    drawn = _draw(axes, curves, validated) or drawn
    if not drawn:
        return ()
    for number, (curve, values) in enumerate(zip(curves, validated, strict=True)):
        if values:
            best = values.index(max(values))
            ring: dict[str, Any] = {"ms": 7, "mfc": "none", "mew": 1.4, "mec": SERIES[number % len(SERIES)]}
            axes.plot(curve.epochs[best], values[best], "o", **ring)
            ends.append(f"{curve.label} validates at best {values[best]:.2f} % in epoch {curve.epochs[best]}")
    _finish(axes, drawn, curves, "accuracy (%)")
    caption = "Accuracy: validation strong, training pale; the ring marks the best validation accuracy."
    every = [value for values in (*fitted, *validated) for value in values]
    if max(every) - min(every) > POINTS_SHOWN:
        axes.set_ylim(max(every) - POINTS_SHOWN, max(every) + 0.05 * POINTS_SHOWN)
        caption += f" Values more than {POINTS_SHOWN} points below the best are cut off."
    label = f"Line chart of accuracy: {', '.join(ends) or 'training accuracy only'}."
    return (Picture(_svg(axes.figure, "accuracy"), label, caption),)


def _draw(
    axes: Axes, curves: Sequence[Curve], series: Sequence[Sequence[float]], **style: float
) -> list[tuple[Line2D, str]]:
    """Draw one line per curve, in the style of its place; return what was drawn, for the legend."""
    drawn = []
    for number, (curve, values) in enumerate(zip(curves, series, strict=True)):
        if any(map(math.isfinite, values)):
            looks: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linewidth": 1.8} | style
            if len(values) <= FEW_EPOCHS:
                looks |= {"marker": "o", "markersize": 3}
            (line,) = axes.plot(curve.epochs, values, linestyle=DASHES[number % len(DASHES)], **looks)
            drawn.append((line, curve.label))
    return drawn


def _axes(height_inch: float) -> Axes:
    figure = Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained")
    axes = figure.add_subplot()
    for side, spine in axes.spines.items():
        spine.set(color=FAINT, visible=side in ("left", "bottom"))
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=FONT_POINTS - 0.5)
    axes.xaxis.label.set(color=INK, fontsize=FONT_POINTS)
    axes.yaxis.label.set(color=INK, fontsize=FONT_POINTS)
    return axes


def _finish(axes: Axes, drawn: list[tuple[Line2D, str]], curves: Sequence[Curve], ylabel: str) -> None:
    axes.set(xlabel="epoch", ylabel=ylabel)
    epochs = [epoch for curve in curves for epoch in curve.epochs]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=STEPS, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    labels = [_shorten(label) for _, label in drawn]
    axes.figure.legend(
        [line for line, _ in drawn],
        labels,
        loc="outside upper left",
        ncols=3 if sum(map(len, labels)) < 40 else 1,
        frameon=False,
        labelcolor=INK,
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


def _kept(row: LayerRow) -> str:
    if row.channels_after == row.channels_before:
        return f"{row.channels_before:,}"
    return f"{row.channels_after:,} of {row.channels_before:,}"


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _shorten(name: str) -> str:
    """Cut a long name on its left, at a dot if there is one: the right end tells layers apart."""
    plain = "".join(char if char.isprintable() else " " for char in name)
    if len(plain) > NAME_LENGTH:
        end = plain[-NAME_LENGTH + 1 :]
        plain = f"…{end.partition('.')[2] or end}"
    return plain.replace("$", r"\$")
