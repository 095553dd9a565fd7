"""A report as words and tables: what every format shows, before any of them lays it out.

A new column or sentence is written here once and appears as text, Markdown and HTML alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from secateur.write import figures
from secateur.write.report import (
    AccuracySplit,
    GammaHistory,
    GroupRow,
    LayerRow,
    Report,
    StageRow,
    VerdictRow,
)

VERDICTS = {
    "exact": "the cut network computes what the masked one does",
    "renormalised": "the cut network equals the masked one up to statistics over the kept positions",
    "failed": "the cut network does not compute what the masked one does",
}


@dataclass(frozen=True)
class Fact:
    """One line of the headline: what changed, by how much, from what to what.

    Args:
        label: The quantity.
        value: Its change, or its value when there is nothing to compare.
        detail: Both values.
        tone: Whether it is good or bad news; "" where that cannot be said.
    """

    label: str
    value: str
    detail: str = ""
    tone: Literal["", "good", "fair", "bad"] = ""


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
class Section:
    """A titled part of the report.

    Args:
        key: A stable name, for anchors and pictures.
        title: The heading.
        paragraphs: Sentences before the table.
        table: The figures.
        items: A bullet list.
        code: Something to copy, set as it is.
    """

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    table: Table | None = None
    items: tuple[str, ...] = ()
    code: str = ""


def headline(report: Report) -> tuple[Fact, ...]:
    """Compare the last stage with the first, and state the verdict.

    Example:
        >>> rows = (StageRow("dense", 0.99, 400, 0, 0, None), StageRow("finetuned", 0.98, 100, 0, 0, None))
        >>> for fact in headline(Report("t", "", "", "", stages=rows))[:2]:
        ...     print(fact.label, "|", fact.value, "|", fact.detail)
        Test accuracy | 98.00 % | 99.00 % dense, -1.00 points
        Parameters | 4.0x smaller | 400 to 100
    """
    facts: list[Fact] = []
    if report.stages:
        first, last = report.stages[0], report.stages[-1]
        facts += [*_accuracy_fact(first, last, report.split), *_cost_facts(first, last)]
    if report.verdict:
        tone: dict[str, Literal["good", "fair", "bad"]] = {"exact": "good", "renormalised": "fair"}
        error = f"relative error {figures.deviation(report.verdict.relative_error)}"
        facts.append(Fact("Verdict", report.verdict.status, error, tone.get(report.verdict.status, "bad")))
    return tuple(facts)


def origin(report: Report) -> tuple[tuple[str, str], ...]:
    """List what the report is about: model, date, ratio asked for and reached.

    Example:
        >>> origin(Report("t", "", "", "zoo:vgg11", requested_ratio=0.7, achieved_ratio=0.6984))
        (('Model', 'zoo:vgg11'), ('Channels removed', '69.84 % (70.00 % requested)'))
    """
    asked, reached = report.requested_ratio, report.achieved_ratio
    removed = figures.percent(reached) if reached is not None else ""
    if asked is not None:
        removed = f"{removed} ({figures.percent(asked)} requested)" if removed else figures.percent(asked)
    label = "Channels removed" if reached is not None else "Removal requested"
    pairs = (("Model", report.model), ("Created", report.created), (label, removed))
    return tuple((label, value) for label, value in pairs if value)


def sections(report: Report) -> tuple[Section, ...]:
    """Lay the report out in sections; those without content are left out.

    Example:
        >>> [section.key for section in sections(Report("t", "", "secateur demo", "m", notes=("short run",)))]
        ['notes', 'command']
    """
    found: list[Section] = []
    if report.stages:
        found.append(Section("stages", "Stages", table=_stage_table(report)))
    if report.split:
        found.append(Section("split", "How accuracy was measured", _split_sentences(report.split)))
    if report.notes:
        found.append(Section("notes", "Notes", items=report.notes))
    if report.layers:
        found.append(_layer_section(report.layers))
    if report.gamma and report.gamma.has_counts:
        found.append(_gamma_section(report.gamma))
    if any(curve.epochs for curve in report.curves):
        found.append(_training_section(report))
    if report.groups:
        found.append(_group_section(report.groups))
    if report.verdict:
        found.append(Section("verdict", "Verdict", _verdict_sentences(report.verdict)))
    if report.written:
        columns = (Column("What"), Column("Path", kind="code"))
        found.append(Section("written", "What was written where", table=Table(columns, report.written)))
    if report.command:
        found.append(Section("command", "Command that made this", code=report.command))
    return tuple(found)


def _accuracy_fact(first: StageRow, last: StageRow, split: AccuracySplit | None) -> list[Fact]:
    if last.accuracy is None:
        return []
    detail = f"at stage {last.name}"
    if first is not last and first.accuracy is not None:
        moved = figures.points(first.accuracy, last.accuracy)
        detail = f"{figures.percent(first.accuracy)} {first.name}, {moved}"
    images = split.reported_on if split else "test"
    return [Fact(f"{images.capitalize()} accuracy", figures.percent(last.accuracy), detail)]


def _cost_facts(first: StageRow, last: StageRow) -> list[Fact]:
    quantities: list[tuple[str, float | None, float | None, Callable[[float], str], str, str]] = [
        ("Parameters", first.params, last.params, figures.count, "smaller", "larger"),
        ("MACs", first.macs, last.macs, figures.count, "fewer", "more"),
        ("Latency", first.latency_ms, last.latency_ms, figures.milliseconds, "faster", "slower"),
    ]
    facts = []
    for label, before, after, wording, less, more in quantities:
        if before is None or after is None:
            continue
        if first is last:
            facts.append(Fact(label, wording(after), f"at stage {last.name}"))
        else:
            moved = figures.change(before, after, less, more)
            facts.append(Fact(label, moved, f"{wording(before)} to {wording(after)}"))
    return facts


def _shares(title: str, values: Sequence[float | None]) -> tuple[Column, tuple[str, ...]]:
    cells = tuple(figures.UNKNOWN if value is None else f"{100 * value:.2f}" for value in values)
    return Column(title, "%", "number"), cells


def _amounts(title: str, values: Sequence[float], unit: str = "") -> tuple[Column, tuple[str, ...]]:
    prefix, cells = figures.scaled(values)
    return Column(title, prefix + unit, "number"), cells


def _table(*columns: tuple[Column, tuple[str, ...]]) -> Table:
    """Join columns to a table; a column in which nothing is known is left out."""
    shown = [(head, cells) for head, cells in columns if set(cells) - {"", figures.UNKNOWN}]
    return Table(tuple(head for head, _ in shown), tuple(zip(*(cells for _, cells in shown), strict=True)))


def _stage_table(report: Report) -> Table:
    stages = report.stages
    chosen = report.split.chosen_on if report.split else "validation"
    reported = report.split.reported_on if report.split else "test"
    latencies = figures.aligned([stage.latency_ms for stage in stages])
    return _table(
        (Column("Stage"), tuple(stage.name for stage in stages)),
        _shares(f"{chosen.capitalize()} accuracy", [stage.validation_accuracy for stage in stages]),
        _shares(f"{reported.capitalize()} accuracy", [stage.accuracy for stage in stages]),
        _amounts("Parameters", [stage.params for stage in stages]),
        _amounts("MACs", [stage.macs for stage in stages]),
        _amounts("File", [stage.size_bytes for stage in stages], "B"),
        (Column("Latency", "ms", "number"), latencies),
        (Column("Note"), tuple(stage.note for stage in stages)),
    )


def _split_sentences(split: AccuracySplit) -> tuple[str, ...]:
    images = (
        f"{split.data_set}: {split.train_images:,} images train, {split.validation_images:,} validate, "
        f"{split.test_images:,} test."
    )
    if split.chosen_on == split.reported_on:
        use = (
            f"The {split.chosen_on} images both chose the checkpoint of every stage and report its accuracy, "
            "so the reported accuracy flatters: it is no estimate for new images."
        )
    else:
        use = (
            f"The {split.chosen_on} images chose the checkpoint of every stage; the {split.reported_on} "
            f"images chose nothing and only report. The {split.reported_on} accuracy is the one to quote."
        )
    return images, use


def _layer_section(layers: tuple[LayerRow, ...]) -> Section:
    before, after = (sum(row.channels_before for row in layers), sum(row.channels_after for row in layers))
    lead = (
        f"{len(layers):,} layer{'s' * (len(layers) != 1)}, {after:,} of {before:,} output channels kept"
        f" ({figures.percent(after / before if before else None)})."
    )
    params_unit, params = _before_and_after(layers, "params")
    macs_unit, macs = _before_and_after(layers, "macs")
    table = _table(
        (Column("Layer", kind="code"), tuple(row.name for row in layers)),
        (Column("Kind"), tuple(row.kind for row in layers)),
        (Column("Channels before", kind="number"), tuple(f"{row.channels_before:,}" for row in layers)),
        (Column("Channels after", kind="number"), tuple(f"{row.channels_after:,}" for row in layers)),
        *((Column(f"Parameters {when}", params_unit, "number"), cells) for when, cells in params),
        *((Column(f"MACs {when}", macs_unit, "number"), cells) for when, cells in macs),
    )
    return Section("layers", "Channels per layer", (lead,), table)


def _before_and_after(
    layers: tuple[LayerRow, ...], quantity: str
) -> tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """Format before and after on one common scale."""
    values = [getattr(row, f"{quantity}_{when}") for when in ("before", "after") for row in layers]
    prefix, cells = figures.scaled(values)
    return prefix, (("before", cells[: len(layers)]), ("after", cells[len(layers) :]))


def _gamma_section(gamma: GammaHistory) -> Section:
    total, epochs = sum(gamma.counts[-1]), len(gamma.counts)
    lead = f"{total:,} batch-norm scales over {epochs:,} epoch{'s' * (epochs != 1)} of sparse training."
    if gamma.threshold is not None:
        lead += f" Channels whose scale ended below {gamma.threshold:.3g} were pruned."
    return Section("gamma", "Batch-norm scales while training sparse", (lead,))


def _training_section(report: Report) -> Section:
    curves = [curve for curve in report.curves if curve.epochs]
    last = {
        "loss": [curve.train_loss[-1] if curve.train_loss else None for curve in curves],
        "train": [curve.train_accuracy[-1] if curve.train_accuracy else None for curve in curves],
        "final": [curve.val_accuracy[-1] if curve.val_accuracy else None for curve in curves],
        "best": [max(curve.val_accuracy, default=None) for curve in curves],
        "zero": [curve.near_zero_share[-1] if curve.near_zero_share else None for curve in curves],
    }
    losses = tuple(figures.UNKNOWN if loss is None else f"{loss:.4f}" for loss in last["loss"])
    table = _table(
        (Column("Run"), tuple(curve.label for curve in curves)),
        (Column("Epochs", kind="number"), tuple(f"{len(curve.epochs):,}" for curve in curves)),
        (Column("Final training loss", kind="number"), losses),
        _shares("Final training accuracy", last["train"]),
        _shares("Final validation accuracy", last["final"]),
        _shares("Best validation accuracy", last["best"]),
        _shares("Scales near zero", last["zero"]),
    )
    return Section("training", "Training", table=table)


def _group_section(groups: tuple[GroupRow, ...]) -> Section:
    found = Counter(group.status for group in groups)
    lead = ", ".join(
        f"{found[status]:,} {status}" for status in ("pruned", "kept", "protected") if found[status]
    )
    shares = [group.kept / group.size if group.size else None for group in groups]
    table = _table(
        (Column("Group", kind="code"), tuple(group.name for group in groups)),
        (Column("Channels", kind="number"), tuple(f"{group.size:,}" for group in groups)),
        (Column("Kept", kind="number"), tuple(f"{group.kept:,}" for group in groups)),
        _shares("Kept", shares),
        (Column("Status"), tuple(group.status for group in groups)),
        (Column("Reason"), tuple(group.reason for group in groups)),
    )
    plural = "s" * (len(groups) != 1)
    return Section(
        "groups", "Groups of coupled channels", (f"{len(groups):,} group{plural}: {lead}.",), table
    )


def _verdict_sentences(verdict: VerdictRow) -> tuple[str, ...]:
    nodes = f"{verdict.nodes_checked:,} node{'s' * (verdict.nodes_checked != 1)}"
    sentence = (
        f"{verdict.status.capitalize()}: {VERDICTS[verdict.status]}. Relative error "
        f"{figures.deviation(verdict.relative_error)}; the shapes of {nodes} were compared."
    )
    return (sentence, verdict.detail) if verdict.detail else (sentence,)
