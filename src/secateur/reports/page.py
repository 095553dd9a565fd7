"""A report as words and sections: what every format shows, before any of them lays it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from secateur.reports import figures
from secateur.reports.content import ModelRow, Report
from secateur.reports.section import Section
from secateur.reports.sections import registered


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


def headline(report: Report) -> tuple[Fact, ...]:
    """Compare the last stage with the first, and state the verdict.

    Example:
        >>> rows = (ModelRow("dense", 0.99, 400, 0, 0, None), ModelRow("finetuned", 0.98, 100, 0, 0, None))
        >>> for fact in headline(Report("t", "", "", "", stages=rows))[:2]:
        ...     print(fact.label, "|", fact.value, "|", fact.detail)
        Test accuracy | 98.00 % | 99.00 % dense, -1.00 points
        Parameters | 4.0x smaller | 400 to 100
    """
    facts: list[Fact] = []
    if report.stages:
        first, last = report.stages[0], report.stages[-1]
        facts += [*_accuracy_fact(report, first, last), *_cost_facts(first, last)]
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
    shown = (section for show in registered.values() if (section := show(report)) is not None)
    return tuple(sorted([*shown, *report.more], key=lambda section: section.place))


def _accuracy_fact(report: Report, first: ModelRow, last: ModelRow) -> list[Fact]:
    of, before, after = report.reported_on, first.accuracy, last.accuracy
    if after is None:
        of, before, after = report.chosen_on, first.validation_accuracy, last.validation_accuracy
    if after is None:
        return []
    detail = f"at stage {last.name}"
    if first is not last and before is not None:
        moved = figures.points(before, after) if report.scale.is_share else f"{after - before:+.4g}"
        detail = f"{report.scale.word(before)} {first.name}, {moved}"
    return [Fact(f"{of.capitalize()} {report.metric}", report.scale.word(after), detail)]


def _cost_facts(first: ModelRow, last: ModelRow) -> list[Fact]:
    quantities: list[tuple[str, float | None, float | None, Callable[[float], str], str, str]] = [
        ("Parameters", first.params, last.params, figures.count, "smaller", "larger"),
        ("MACs", first.macs, last.macs, figures.count, "fewer", "more"),
        ("Latency", first.latency_ms, last.latency_ms, figures.milliseconds, "faster", "slower"),
    ]
    facts = []
    for label, before, after, wording, less, more in quantities:
        if after is None:
            continue
        if first is last or before is None:
            facts.append(Fact(label, wording(after), f"at stage {last.name}"))
        else:
            moved = figures.change(before, after, less, more)
            facts.append(Fact(label, moved, f"{wording(before)} to {wording(after)}"))
    return facts
