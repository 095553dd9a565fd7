"""What was written where."""

from secateur.reports.content import Report
from secateur.reports.section import Section, Values
from secateur.reports.sections import registered


@registered("written")
def show_written(report: Report) -> Section | None:
    """A path for each label."""
    if not report.written:
        return None
    labels, paths = zip(*report.written, strict=True)
    columns = (Values("What", labels), Values("Path", paths, "code"))
    return Section("written", "What was written where", columns=columns, place=110)
