"""A section of a report: a heading, sentences, figures, charts; data only, whatever it is about.

Figures are held as they are, not rounded and not as words; `Section.table` is how they read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from secateur.reports import figures
from secateur.reports.charts import Chart

Measure: TypeAlias = Literal["words", "code", "count", "amount", "share", "time", "real", "error"]


@dataclass(frozen=True)
class Column:
    """The head of a table column.

    Args:
        title: What it holds.
        unit: Its unit, with prefix.
        kind: How cells are set: words, right-aligned numbers, or names of code.
    """

    title: str
    unit: str = ""
    kind: Literal["text", "number", "code"] = "text"

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Table:
    """Columns and rows of formatted cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Values:
    """A column of a section: what it holds, and a value for each row.

    Args:
        title: What it holds.
        values: One for each row; None where it is not known.
        measure: What they are: words, names of code, counts that are written out, amounts with a prefix
            (parameters, MACs, bytes), shares in 0..1, times, other numbers, or relative errors.
        unit: The unit, without prefix.
        scale: Amounts with the same word here have one prefix, so that they can be compared.

    Example:
        >>> Values("Parameters", (20_040_522, None), "amount").column()
        (Column(title='Parameters', unit='M', kind='number'), ('20.04', '-'))
    """

    title: str
    values: tuple[str | int | float | None, ...]
    measure: Measure = "words"
    unit: str = ""
    scale: str = ""

    def __post_init__(self) -> None:
        if self.measure not in ("words", "code"):  # JSON holds what is not finite as a word
            numbers = (float(value) if isinstance(value, str) else value for value in self.values)
            object.__setattr__(self, "values", tuple(numbers))

    @property
    def numbers(self) -> list[float | None]:
        """The values of a column that is not of words."""
        return [None if value is None else float(value) for value in self.values]

    def column(self, together: Sequence[float] = ()) -> tuple[Column, tuple[str, ...]]:
        """The head, and a formatted cell for each value.

        Args:
            together: The numbers that set the prefix of amounts; none for those of this column.
        """
        if self.measure in ("words", "code"):
            kind: Literal["text", "code"] = "code" if self.measure == "code" else "text"
            return Column(self.title, kind=kind), tuple(
                "" if one is None else str(one) for one in self.values
            )
        numbers = self.numbers
        if self.measure == "time":
            return Column(self.title, self.unit, "number"), figures.aligned(numbers)
        if self.measure == "amount":
            known = [one for one in numbers if one is not None]
            prefix, cells = figures.scaled([*(together or known), *known])
            shown = iter(cells[len(cells) - len(known) :])
            words = tuple(figures.UNKNOWN if one is None else next(shown) for one in numbers)
            return Column(self.title, prefix + self.unit, "number"), words
        word = {"share": _share, "count": "{:,.0f}".format, "error": figures.deviation}.get(
            self.measure, "{:.4f}".format
        )
        unit = "%" if self.measure == "share" else self.unit
        return Column(self.title, unit, "number"), tuple(
            figures.UNKNOWN if one is None else word(one) for one in numbers
        )


@dataclass(frozen=True)
class Portion:
    """A part of a whole, for a bar of parts: its name, how large it is, and what it is for."""

    name: str
    size: int
    words: str


@dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Args:
        key: A stable name, for anchors and pictures.
        title: The heading.
        paragraphs: Sentences before the figures.
        columns: The figures; a column in which nothing is known is left out.
        charts: Pictures; formats without pictures leave them out.
        items: A bullet list.
        code: Something to copy, set as it is.
        place: Sections stand in the order of their places.
        parts: A bar that a page shows, of which the sentences speak.
        ends_in_result: The last row is what came out.

    Example:
        >>> Section("t", "T", columns=(Values("Layer", ("conv",), "code"), Values("Note", ("",)))).table
        Table(columns=(Column(title='Layer', unit='', kind='code'),), rows=(('conv',),))
    """

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    columns: tuple[Values, ...] = ()
    charts: tuple[Chart, ...] = ()
    items: tuple[str, ...] = ()
    code: str = ""
    place: int = 50
    parts: tuple[Portion, ...] = ()
    ends_in_result: bool = False

    @property
    def table(self) -> Table | None:
        """The figures as they read; None if there are none."""
        together: dict[str, list[float]] = {}
        for column in self.columns:
            if column.scale:
                together.setdefault(column.scale, []).extend(
                    one for one in column.numbers if one is not None and math.isfinite(one)
                )
        made = [column.column(together.get(column.scale, ())) for column in self.columns]
        shown = [(head, cells) for head, cells in made if set(cells) - {"", figures.UNKNOWN}]
        if not shown:
            return None
        return Table(
            tuple(head for head, _ in shown), tuple(zip(*(cells for _, cells in shown), strict=True))
        )


def _share(share: float) -> str:
    return f"{100 * share:.2f}"
