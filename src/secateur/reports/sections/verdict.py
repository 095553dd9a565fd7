"""The proof that the cut is right."""

from secateur.reports import figures
from secateur.reports.content import Report
from secateur.reports.section import Section
from secateur.reports.sections import registered

SAYS = {
    "exact": "the cut network computes what the masked one does",
    "renormalised": "the cut network equals the masked one up to statistics over the kept positions",
    "failed": "the cut network does not compute what the masked one does",
}


@registered("verdict")
def show_verdict(report: Report) -> Section | None:
    """What was compared, and how far it is apart."""
    verdict = report.verdict
    if verdict is None:
        return None
    nodes = f"{verdict.nodes_checked:,} node{'s' * (verdict.nodes_checked != 1)}"
    sentence = (
        f"{verdict.status.capitalize()}: {SAYS[verdict.status]}. Relative error "
        f"{figures.deviation(verdict.relative_error)}; the shapes of {nodes} were compared."
    )
    paragraphs = (sentence, verdict.detail) if verdict.detail else (sentence,)
    return Section("verdict", "Verdict", paragraphs, place=100)
