"""The command line that made the report."""

from secateur.reports.content import Report
from secateur.reports.section import Section
from secateur.reports.sections import registered


@registered("command")
def show_command(report: Report) -> Section | None:
    """To be copied."""
    if not report.command:
        return None
    return Section("command", "Command that made this", code=report.command, place=120)
