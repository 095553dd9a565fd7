"""The report as plain text for a terminal: aligned columns, no colour, at most 100 columns wide."""

import re
import textwrap

from secateur.reports.content import Report
from secateur.reports.formats import formats, suffixes
from secateur.reports.page import Fact, headline, origin, sections
from secateur.reports.section import Column, Section, Table

WIDTH = 100
GAP = "  "
NARROWEST = 12


@suffixes(".txt")
@formats("text")
def text(report: Report) -> str:
    """Render a report as plain text.

    Example:
        >>> print(text(Report("VGG-11 on digits", "2026-01-31", "secateur demo", "zoo:vgg11")), end="")
        VGG-11 on digits
        ================
        Model    zoo:vgg11
        Created  2026-01-31
        <BLANKLINE>
        Command that made this
        ----------------------
        secateur demo
    """
    blocks = ["\n".join([*_heading(report.title, "="), *_pairs(origin(report))])]
    facts = headline(report)
    if facts:
        blocks.append("\n".join(_facts(facts)))
    blocks += ["\n".join(_section(section)) for section in sections(report)]
    return "\n\n".join(blocks) + "\n"


def render(table: Table, width: int = WIDTH) -> str:
    """Align a table; when it is too wide, headers are stacked and the widest columns of words wrapped.

    Args:
        table: What to show.
        width: The most columns that a line may take, as far as numbers and paths allow.

    Example:
        >>> columns = (Column("Stage"), Column("Parameters", "M", "number"))
        >>> print(render(Table(columns, (("dense", "20.04"), ("finetuned", "2.25")))))
        Stage      Parameters (M)
        ---------  --------------
        dense               20.04
        finetuned            2.25
    """
    rows = [[_plain(cell) for cell in row] for row in table.rows]
    titles = [_plain(column.heading) for column in table.columns]
    widths = _widths(table.columns, titles, rows, width)
    heads = [_wrap(title, limit) for title, limit in zip(titles, widths, strict=True)]
    tallest = max(map(len, heads))
    padded = [[""] * (tallest - len(head)) + head for head in heads]
    lines = [_line([head[i] for head in padded], table.columns, widths) for i in range(tallest)]
    lines.append(GAP.join("-" * limit for limit in widths))
    for row in rows:
        parts = zip(table.columns, row, widths, strict=True)
        cells = [
            (_wrap_name if column.kind == "code" else _wrap)(cell, limit) for column, cell, limit in parts
        ]
        for i in range(max(map(len, cells))):
            line = [cell[i] if i < len(cell) else "" for cell in cells]
            lines.append(_line(line, table.columns, widths))
    return "\n".join(lines)


def _widths(columns: tuple[Column, ...], titles: list[str], rows: list[list[str]], width: int) -> list[int]:
    """Give every column what it needs; if that is too much, stack the headers; if still, wrap words."""
    cells = [max((len(row[i]) for row in rows), default=0) for i in range(len(columns))]
    room = width - len(GAP) * (len(columns) - 1)
    whole = [max(cell, len(title)) for cell, title in zip(cells, titles, strict=True)]
    if sum(whole) <= room:
        return whole
    words = [max(map(len, title.split()), default=0) for title in titles]
    widths = [max(pair) for pair in zip(cells, words, strict=True)]
    last = len(columns) - 1
    while sum(widths) > room:
        wordy = [
            i
            for i, column in enumerate(columns)
            if column.kind != "number" and widths[i] > NARROWEST and not (column.kind == "code" and i == last)
        ]
        if not wordy:
            break
        widths[max(wordy, key=lambda i: widths[i])] -= 1
    return widths


def _line(cells: list[str], columns: tuple[Column, ...], widths: list[int]) -> str:
    aligned = [
        cell.rjust(width) if column.kind == "number" else cell.ljust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    ]
    return GAP.join(aligned).rstrip()


def _section(section: Section) -> list[str]:
    lines = _heading(section.title, "-")
    for paragraph in section.paragraphs:
        lines += _wrap(_plain(paragraph), WIDTH)
    if section.table:
        lines += ["", render(section.table)] if section.paragraphs else [render(section.table)]
    for item in section.items:
        lines += [f"{'  ' if i else '- '}{line}" for i, line in enumerate(_wrap(_plain(item), WIDTH - 2))]
    return [*lines, *(_plain(line) for line in section.code.splitlines())]


def _facts(facts: tuple[Fact, ...]) -> list[str]:
    labels, values = (max(len(fact.label) for fact in facts), max(len(fact.value) for fact in facts))
    return [f"{fact.label:{labels}}  {fact.value:{values}}  {fact.detail}".rstrip() for fact in facts]


def _pairs(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    longest = max((len(label) for label, _ in pairs), default=0)
    return [f"{label:{longest}}  {_plain(value)}" for label, value in pairs]


def _heading(title: str, rule: str) -> list[str]:
    plain = _plain(title)
    return [plain, rule * min(len(plain), WIDTH)]


def _wrap(words: str, width: int) -> list[str]:
    return textwrap.wrap(words, width, break_on_hyphens=False) or [""]


def _wrap_name(name: str, width: int) -> list[str]:
    """Break a long qualified name after its dots and slashes."""
    lines = [""]
    for part in re.split(r"(?<=[./])", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return [line[i : i + width] for line in lines for i in range(0, max(len(line), 1), width)]


def _plain(words: str) -> str:
    """Keep a foreign name on its line: line breaks become blanks, what cannot be printed its escape."""
    line = "".join(" " if char.isspace() else char for char in words)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
