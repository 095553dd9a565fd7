"""Every group of coupled channels, and why some were left alone."""

from collections import Counter

from secateur.reports.content import Report
from secateur.reports.section import Section, Values
from secateur.reports.sections import registered


@registered("groups")
def show_groups(report: Report) -> Section | None:
    """A row for each group."""
    groups = report.groups
    if not groups:
        return None
    counted = Counter(group.status for group in groups)
    lead = ", ".join(
        f"{counted[status]:,} {status}" for status in ("pruned", "kept", "protected") if counted[status]
    )
    columns = (
        Values("Group", tuple(group.name for group in groups), "code"),
        Values("Channels", tuple(group.size for group in groups), "count"),
        Values("Kept", tuple(group.kept for group in groups), "count"),
        Values("Kept", tuple(group.kept / group.size if group.size else None for group in groups), "share"),
        Values("Status", tuple(group.status for group in groups)),
        Values("Reason", tuple(group.reason for group in groups)),
    )
    plural = "s" * (len(groups) != 1)
    lead = f"{len(groups):,} group{plural}: {lead}."
    return Section("groups", "Groups of coupled channels", (lead,), columns, place=90)
