"""Charts as data: what is drawn, without how.

A chart goes into JSON as it is, onto a page as SVG in the page's colours, or into a PNG or SVG file of its
own (`secateur.reports.plots`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from secateur.reports.figures import percent


@dataclass(frozen=True)
class Line:
    """Points of a chart under one name.

    Args:
        name: What the legend says.
        xs: Where the points are.
        ys: One for each.
        looks: A line with its points, a pale line behind the others, points alone, or the dashed front that
            joins the best points.
        place: Which colour and dash it takes; None for its place among the names of the chart.
        ring: The index of a point to mark.

    Example:
        >>> Line("dense", (1, 2), (0.5,))
        Traceback (most recent call last):
        ...
        ValueError: line 'dense' has 2 xs but 1 ys
    """

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    looks: Literal["line", "pale", "points", "front"] = "line"
    place: int | None = None
    ring: int | None = None

    def __post_init__(self) -> None:
        if len(self.xs) != len(self.ys):
            raise ValueError(f"line '{self.name}' has {len(self.xs)} xs but {len(self.ys)} ys")


@dataclass(frozen=True)
class Band:
    """A stretch of the horizontal axis with a name; a single place where both ends are one."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Lines:
    """Lines or points over a horizontal axis.

    Args:
        key: A name for the picture's identifiers.
        label: What a reader who cannot see it needs to know.
        caption: How to read it.
        xlabel: What the horizontal axis is.
        ylabel: What the vertical axis is.
        lines: What is drawn.
        least: Where the vertical axis starts; None for where the values do.
        most: Where it ends.
        is_whole: The horizontal axis counts whole things.
        bands: Marked stretches of the horizontal axis.
    """

    key: str
    label: str
    caption: str
    xlabel: str
    ylabel: str
    lines: tuple[Line, ...]
    least: float | None = None
    most: float | None = None
    is_whole: bool = False
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True)
class Bars:
    """A bar for each name, one below the other.

    Args:
        key: As for `Lines`, and so are label, caption and xlabel.
        label: As there.
        caption: As there.
        xlabel: As there.
        names: What each bar is of.
        values: How long it is.
        words: What stands at its end.
        wholes: What each is a part of, drawn pale behind it; empty for nothing.
        line: A value to compare all with.
    """

    key: str
    label: str
    caption: str
    xlabel: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    words: tuple[str, ...]
    wholes: tuple[float, ...] = ()
    line: float | None = None


@dataclass(frozen=True)
class Heat:
    """Histograms over the epochs, on a logarithmic colour scale.

    Args:
        key: As for `Lines`, and so are label, caption, xlabel and ylabel.
        label: As there.
        caption: As there.
        xlabel: As there.
        ylabel: As there.
        edges: Borders of the bins.
        counts: A row for each epoch.
        line: A value to mark.
    """

    key: str
    label: str
    caption: str
    xlabel: str
    ylabel: str
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    line: float | None = None


Chart: TypeAlias = Lines | Bars | Heat


def percents(shares: Sequence[float]) -> tuple[float, ...]:
    """Shares as they stand on an axis.

    Example:
        >>> percents([0.5, 1])
        (50.0, 100)
    """
    return tuple(100 * share for share in shares)


@dataclass(frozen=True)
class Scale:
    """How a figure is shown: shares in percent, others as they are.

    Args:
        name: What the figure is called.
        is_share: All its values lie between 0 and 1.

    Example:
        >>> scale = Scale.of("accuracy", [0.5, 1])
        >>> scale.label, scale.on_axis([0.5]), scale.word(0.5), scale.measure
        ('accuracy (%)', (50.0,), '50.00 %', 'share')
        >>> Scale.of("error in years", [2.5, 0.5]).word(2.5)
        '2.5'
    """

    name: str
    is_share: bool

    @classmethod
    def of(cls, name: str, values: Iterable[float]) -> "Scale":
        """The scale that fits some values."""
        return cls(name, all(0 <= value <= 1 for value in values))

    @property
    def title(self) -> str:
        """The name as a sentence or a column begins with it."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def label(self) -> str:
        """What stands at the axis."""
        return f"{self.name} (%)" if self.is_share else self.name

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Where the axis starts and ends; None for where the values do."""
        return (0, 102) if self.is_share else (None, None)

    @property
    def measure(self) -> Literal["share", "real"]:
        """How a column of a table holds it."""
        return "share" if self.is_share else "real"

    def on_axis(self, values: Sequence[float]) -> tuple[float, ...]:
        """Values as they stand on the axis."""
        return percents(values) if self.is_share else tuple(values)

    def word(self, value: float) -> str:
        """A value for people."""
        return percent(value) if self.is_share else f"{value:.4g}"
