"""The report as one HTML file that needs nothing else: no network, no script, pictures inside."""

from collections.abc import Iterable
from html import escape

from secateur.reports.content import Report
from secateur.reports.formats import formats, suffixes
from secateur.reports.page import Fact, headline, origin, sections
from secateur.reports.section import Column, Section, Table
from secateur.reports.stylesheet import STYLESHEET

LONG_TABLE = 20
LONG_CELL = 32


@suffixes(".html")
@formats("html")
def html(report: Report) -> str:
    """Render a report as one self-contained page.

    Example:
        >>> page = html(Report("VGG-11 <small>", "", "secateur demo", "zoo:vgg11"))
        >>> "<h1>VGG-11 &lt;small&gt;</h1>" in page
        True
    """
    title = escape(report.title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="generator" content="secateur">',
            f"<title>{title} | secateur report</title>",
            f"<style>{STYLESHEET}</style>",
            "</head>",
            "<body>",
            "<header>",
            f"<h1>{title}</h1>",
            *_origin(report),
            "</header>",
            "<main>",
            *_facts(headline(report)),
            *[line for section in sections(report) for line in _section(section)],
            "</main>",
            "<footer>Written by secateur. This page loads nothing from elsewhere.</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _origin(report: Report) -> list[str]:
    pairs = [f"<div><dt>{label}</dt><dd>{escape(value)}</dd></div>" for label, value in origin(report)]
    return ['<dl class="origin">', *pairs, "</dl>"] if pairs else []


def _facts(facts: tuple[Fact, ...]) -> list[str]:
    if not facts:
        return []
    cards = [
        f"<div><dt>{escape(fact.label)}</dt>"
        f'<dd class="{f"value {fact.tone}".strip()}">{escape(fact.value)}</dd>'
        f'<dd class="detail">{escape(fact.detail)}</dd></div>'
        for fact in facts
    ]
    return ['<dl class="facts" aria-label="Headline">', *cards, "</dl>"]


def _section(section: Section) -> list[str]:
    lines = [f'<section id="{section.key}" aria-labelledby="{section.key}-title">']
    lines.append(f'<h2 id="{section.key}-title">{escape(section.title)}</h2>')
    lines += _parts(section)
    lines += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    lines += _figures(section)
    if section.table:
        lines += _table(section, section.table)
    if section.items:
        lines += ["<ul>", *(f"<li>{escape(item)}</li>" for item in section.items), "</ul>"]
    if section.code:
        lines.append(f"<pre><code>{escape(section.code)}</code></pre>")
    return [*lines, "</section>"]


def _figures(section: Section) -> list[str]:
    if not section.charts:
        return []
    from secateur.reports.plots import picture  # matplotlib takes a while, and other formats need none of it

    drawn = []
    for made in map(picture, section.charts):
        svg = made.svg.replace("<svg", f'<svg role="img" aria-label="{escape(made.label)}"', 1)
        drawn.append(f"<figure>\n{svg}\n<figcaption>{escape(made.caption)}</figcaption>\n</figure>")
    return ['<div class="figures">', *drawn, "</div>"]


def _parts(section: Section) -> list[str]:
    if not section.parts:
        return []
    lines = [
        f'<li style="flex-grow:{max(part.size, 1)}">'
        f"<strong>{escape(part.name)} {part.size:,}</strong><span>{escape(part.words)}</span></li>"
        for part in section.parts
    ]
    return [f'<ul class="parts" aria-label="{escape(section.title)}, parts">', *lines, "</ul>"]


def _table(section: Section, table: Table) -> list[str]:
    classes = [_class(*pair) for pair in zip(table.columns, zip(*table.rows, strict=True), strict=True)]
    heads = zip(table.columns, classes, strict=True)
    head = "".join(f'<th scope="col"{looks}>{_heading(column)}</th>' for column, looks in heads)
    wide = "wide" * (len(table.columns) > 2)
    looks = " ".join(filter(None, [wide, "result" * section.ends_in_result]))
    lines = [f'<div class="scroll" role="group" aria-label="{escape(section.title)}, table" tabindex="0">']
    lines.append(f'<table class="{looks}">' if looks else "<table>")
    lines += [f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for row in table.rows:
        cells = [
            _cell(*cell, first=i == 0) for i, cell in enumerate(zip(table.columns, row, classes, strict=True))
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>", "</div>"]
    if len(table.rows) > LONG_TABLE:
        summary = f"<summary>Table of all {len(table.rows):,} rows</summary>"
        return ["<details>", summary, *lines, "</details>"]
    return lines


def _heading(column: Column) -> str:
    unit = f' <span class="unit">({escape(column.unit)})</span>' if column.unit else ""
    return f"{escape(column.title)}{unit}"


def _cell(column: Column, words: str, looks: str, first: bool) -> str:
    shown = f"<code>{escape(words)}</code>" if column.kind == "code" else escape(words)
    return f'<th scope="row"{looks}>{shown}</th>' if first else f"<td{looks}>{shown}</td>"


def _class(column: Column, cells: Iterable[str]) -> str:
    """Numbers stand to the right; sentences get room, and so do names that are too long for a line."""
    if column.kind == "number":
        return ' class="number"'
    is_long = max(map(len, cells), default=0) > LONG_CELL
    return ' class="long"' * is_long
