"""Remarks and warnings."""

from secateur.reports.content import Report
from secateur.reports.section import Section
from secateur.reports.sections import registered


@registered("notes")
def show_notes(report: Report) -> Section | None:
    """A sentence each."""
    return Section("notes", "Notes", items=report.notes, place=30) if report.notes else None
