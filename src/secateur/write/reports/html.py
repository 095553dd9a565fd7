"""The report as one HTML file that needs nothing else: no network, no script, pictures inside."""

from html import escape

from secateur.write import plots
from secateur.write.report import AccuracySplit, Report
from secateur.write.reports import formats, suffixes
from secateur.write.sections import Column, Fact, Section, Table, headline, origin, sections
from secateur.write.stylesheet import STYLESHEET

LONG_TABLE = 20


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
            *[line for section in sections(report) for line in _section(section, report)],
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


def _section(section: Section, report: Report) -> list[str]:
    lines = [f'<section id="{section.key}" aria-labelledby="{section.key}-title">']
    lines.append(f'<h2 id="{section.key}-title">{escape(section.title)}</h2>')
    if section.key == "split" and report.split:
        lines += _split_bar(report.split)
    lines += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    lines += _figures(_pictures(section, report))
    if section.table:
        lines += _table(section, section.table)
    if section.items:
        lines += ["<ul>", *(f"<li>{escape(item)}</li>" for item in section.items), "</ul>"]
    if section.code:
        lines.append(f"<pre><code>{escape(section.code)}</code></pre>")
    return [*lines, "</section>"]


def _pictures(section: Section, report: Report) -> tuple[plots.Picture, ...]:
    """Draw what belongs to a section; the share near zero stands beside the scales if they are shown."""
    curves = [curve for curve in report.curves if curve.epochs]
    if section.key == "layers":
        return (plots.channels(report.layers),)
    if section.key == "gamma" and report.gamma:
        return (plots.scales(report.gamma), *plots.near_zero(curves))
    if section.key == "training":
        has_scales = report.gamma is not None and report.gamma.has_counts
        return (*plots.training(curves), *(() if has_scales else plots.near_zero(curves)))
    return ()


def _figures(pictures: tuple[plots.Picture, ...]) -> list[str]:
    if not pictures:
        return []
    drawn = []
    for picture in pictures:
        svg = picture.svg.replace("<svg", f'<svg role="img" aria-label="{escape(picture.label)}"', 1)
        drawn.append(f"<figure>\n{svg}\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>")
    return ['<div class="figures">', *drawn, "</div>"]


def _split_bar(split: AccuracySplit) -> list[str]:
    parts = [
        ("train", split.train_images),
        ("validation", split.validation_images),
        ("test", split.test_images),
    ]
    lines = []
    for name, images in parts:
        fits = "fit the weights" * (name == "train")
        chooses = "choose the checkpoint" * (name == split.chosen_on)
        reports = ("report" if chooses or fits else "only report") * (name == split.reported_on)
        uses = " and ".join(use for use in (fits, chooses, reports) if use) or "are not used"
        words = f"<strong>{name} {images:,}</strong><span>{uses}</span>"
        lines.append(f'<li style="flex-grow:{max(images, 1)}">{words}</li>')
    return ['<ul class="split" aria-label="What the images are for">', *lines, "</ul>"]


def _table(section: Section, table: Table) -> list[str]:
    heads = "".join(f'<th scope="col"{_class(column)}>{_heading(column)}</th>' for column in table.columns)
    lines = [f'<div class="scroll" role="group" aria-label="{escape(section.title)}, table" tabindex="0">']
    lines.append(f'<table class="{section.key}">')
    lines += [f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    for row in table.rows:
        cells = [_cell(*pair, first=i == 0) for i, pair in enumerate(zip(table.columns, row, strict=True))]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>", "</div>"]
    if len(table.rows) > LONG_TABLE:
        return [
            "<details>",
            f"<summary>Table of all {len(table.rows):,} rows</summary>",
            *lines,
            "</details>",
        ]
    return lines


def _heading(column: Column) -> str:
    unit = f' <span class="unit">({escape(column.unit)})</span>' if column.unit else ""
    return f"{escape(column.title)}{unit}"


def _cell(column: Column, words: str, first: bool) -> str:
    shown = f"<code>{escape(words)}</code>" if column.kind == "code" else escape(words)
    return f'<th scope="row">{shown}</th>' if first else f"<td{_class(column)}>{shown}</td>"


def _class(column: Column) -> str:
    if column.kind == "number":
        return ' class="number"'
    return ' class="reason"' if column.title in ("Reason", "Note") else ""
