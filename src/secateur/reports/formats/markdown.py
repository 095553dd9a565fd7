"""The report as Markdown (the GitHub dialect, for its tables), to paste into an issue or a log."""

import re

from secateur.reports.content import Report
from secateur.reports.formats import formats, suffixes
from secateur.reports.page import Fact, headline, origin, sections
from secateur.reports.section import Column, Section, Table

LIST_MARK = re.compile(r"^(\d*)([-+.)])(?=\s)")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&$])")


@suffixes(".md")
@formats("markdown")
def markdown(report: Report) -> str:
    r"""Render a report as Markdown.

    Example:
        >>> print(markdown(Report("VGG-11 *small*", "", "secateur demo", "zoo:vgg11")), end="")
        # VGG-11 \*small\*
        <BLANKLINE>
        - Model: zoo:vgg11
        <BLANKLINE>
        ## Command that made this
        <BLANKLINE>
        ```
        secateur demo
        ```
    """
    blocks = [f"# {_escape(report.title)}"]
    facts = [f"- {label}: {_escape(value)}" for label, value in origin(report)]
    facts += [_fact(fact) for fact in headline(report)]
    if facts:
        blocks.append("\n".join(facts))
    for section in sections(report):
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def render(table: Table) -> str:
    """Render a table; numbers are aligned to the right.

    Example:
        >>> columns = (Column("Layer", kind="code"), Column("Channels", kind="number"))
        >>> print(render(Table(columns, (("features.0", "64"),))))
        | Layer | Channels |
        | --- | ---: |
        | `features.0` | 64 |
    """
    lines = [_row([_escape(column.heading) for column in table.columns])]
    lines.append(_row(["---:" if column.kind == "number" else "---" for column in table.columns]))
    lines += [_row([_cell(*pair) for pair in zip(table.columns, row, strict=True)]) for row in table.rows]
    return "\n".join(lines)


def _section(section: Section) -> list[str]:
    blocks = [f"## {_escape(section.title)}", *map(_escape, section.paragraphs)]
    if section.table:
        blocks.append(render(section.table))
    if section.items:
        blocks.append("\n".join(f"- {_escape(item)}" for item in section.items))
    if section.code:
        fence = "`" * max(3, 1 + _longest_run(section.code))
        blocks.append(f"{fence}\n{section.code}\n{fence}")
    return blocks


def _fact(fact: Fact) -> str:
    detail = f" ({_escape(fact.detail)})" if fact.detail else ""
    return f"- {fact.label}: **{_escape(fact.value)}**{detail}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(column: Column, words: str) -> str:
    return _code(words) if column.kind == "code" else _escape(words)


def _code(name: str) -> str:
    """Quote a name with more backticks than it holds; a table wants its bars escaped even there."""
    line = _one_line(name).replace("|", r"\|")
    if not line:
        return ""
    fence = "`" * (1 + _longest_run(line))
    pad = " " if "`" in (line[0], line[-1]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _escape(words: str) -> str:
    return LIST_MARK.sub(r"\1\\\2", SPECIAL.sub(r"\\\1", _one_line(words)))


def _one_line(words: str) -> str:
    return " ".join(words.split())


def _longest_run(words: str) -> int:
    return max(map(len, re.findall("`+", words)), default=0)
