"""What `secateur.prune` returned."""

from typing import Any

from secateur.recovery import Recovered, Recovery
from secateur.reports.content import Report
from secateur.reports.rows import group_rows, layer_rows, model_row, verdict_row
from secateur.reports.section import Section, Values
from secateur.reports.subject import registered
from secateur.reports.subjects.plan import plan_report
from secateur.result import Result


@registered("result")
def of_result(thing: Any) -> Report | None:
    """Cost before and after, widths by group with the reasons, the verdict, what recovery did."""
    if not isinstance(thing, Result):
        return None
    plan, kept = thing.plan, {group.name: len(group.keep) for group in thing.plan.groups}
    told = plan_report(plan)
    return Report(
        title=f"{plan.model}, pruned",
        created="",
        command=plan.command,
        model=told.model,
        requested_ratio=told.requested_ratio,
        achieved_ratio=plan.achieved,
        stages=(
            model_row("original", thing.before),
            model_row("recovered" if thing.recovered else "pruned", thing.after),
        ),
        layers=layer_rows(thing.groups, kept),
        groups=group_rows(thing.groups, kept, plan.reasons),
        verdict=verdict_row(thing.verdict),
        notes=told.notes,
        more=(*told.more, *recovery_sections(thing.recovered, thing.errors)),
    )


def recovery_sections(done: tuple[Recovery, ...], errors: tuple[Recovered, ...]) -> tuple[Section, ...]:
    """What recovery did to each layer, and how far the outputs are from those of the original."""
    if not done and not errors:
        return ()
    paragraphs = tuple(f"{str(error)[0].upper()}{str(error)[1:]}." for error in errors)
    columns = (
        Values("Layer", tuple(one.layer for one in done), "code"),
        Values("Step", tuple(one.step for one in done)),
        Values("Status", tuple(one.status for one in done)),
        Values("What was done", tuple(one.detail for one in done)),
    )
    return (Section("recovery", "Recovery", paragraphs, columns, place=95),)
