"""The pictures of a sweep: accuracy against what is zeroed, and mean feature maps, as PNG or SVG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from secateur.errors import RequestError
from secateur.write.atomic import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito, safe for colour-blind readers
_DASHES = ("-", "--", ":", "-.")
_CHARACTERS_PER_INCH = 11
"""Of a title."""


def draw_curves(
    path: Path | str, curves: Mapping[str, Sequence[tuple[float, float]]], title: str, xlabel: str
) -> Path:
    """Draw shares against a number, a line for each name.

    Args:
        path: A `.png` or `.svg` file; it is complete or not there.
        curves: Points (number, share from 0 to 1) by name.
        title: What it shows.
        xlabel: What the number is.

    Returns:
        The path.

    Raises:
        RequestError: Another kind of file.
        SecateurError: It cannot be written.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        colour, dash = COLOURS[number % 4], _DASHES[number // 4 % 4]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, ls=dash, label=name)
    axes.set(xlabel=xlabel, ylabel="accuracy", ylim=(0, 1.02))
    axes.set_title(title, fontsize=11)
    axes.grid(axis="y", alpha=0.4)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=7, ncols=2 if len(curves) > 8 else 1, handlelength=3)
    return _write(figure, Path(path))


def draw_bars(path: Path | str, shares: Mapping[str, float], line: float, title: str) -> Path:
    """Draw a bar for each name, and a line to compare them with.

    Args:
        path: As for `draw_curves`.
        shares: From 0 to 1, by name.
        line: The share of the model as it is.
        title: What it shows.
    """
    figure = Figure(figsize=(6.4, 1.2 + 0.24 * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(shares), list(shares.values()), color=COLOURS[0])
    axes.axvline(line, color=COLOURS[1], ls="--", label=f"as it is: {line:.3f}")
    axes.invert_yaxis()
    axes.set(xlabel="accuracy", xlim=(0, 1.02))
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False, fontsize=8)
    return _write(figure, Path(path))


def draw_maps(path: Path | str, maps: "Tensor", names: Sequence[str], title: str) -> Path:
    """Draw maps in a square grid with one colour scale and its bar.

    Args:
        path: As for `draw_curves`.
        maps: Of shape (maps, height, width), in the order of the grid, row by row.
        names: One for each map.
        title: What it shows.
    """
    side = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / side)
    width = 1.0 + 0.95 * side
    title = fill(title, int(_CHARACTERS_PER_INCH * width))
    figure = Figure(figsize=(width, 0.5 + 0.2 * len(title.splitlines()) + 1.05 * rows), layout="constrained")
    grid = figure.subplots(rows, side, squeeze=False)
    low, high = float(maps.min()), float(maps.max())
    for axes in grid.flat:
        axes.set_axis_off()
    image = None
    for axes, shown, name in zip(grid.flat, maps, names, strict=False):
        image = axes.imshow(shown.cpu().numpy(), vmin=low, vmax=high, cmap="viridis")
        axes.set_title(name, fontsize=7, pad=2)
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.8, label="mean activation")
    figure.suptitle(title, fontsize=11)
    return _write(figure, Path(path))


def _write(figure: Figure, path: Path) -> Path:
    if path.suffix not in (".png", ".svg"):
        raise RequestError(f"cannot draw {path.name}", do="name a .png or .svg file")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "secateur"
        metadata = {"Date": None} if path.suffix == ".svg" else None
        atomic_write(path, lambda file: figure.savefig(file, dpi=150, metadata=metadata))
    return path
