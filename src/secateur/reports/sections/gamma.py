"""Batch-norm scales over the epochs of sparse training."""

from secateur.reports.charts import Chart, Heat
from secateur.reports.content import GammaHistory, Report
from secateur.reports.section import Section
from secateur.reports.sections import registered
from secateur.reports.sections.training import near_zero_charts


@registered("gamma")
def show_gamma(report: Report) -> Section | None:
    """Their histogram, and the share near zero beside it."""
    gamma = report.gamma
    if gamma is None or not gamma.has_counts:
        return None
    total, epochs = sum(gamma.counts[-1]), len(gamma.counts)
    lead = f"{total:,} batch-norm scales over {epochs:,} epoch{'s' * (epochs != 1)} of sparse training."
    if gamma.threshold is not None:
        lead += f" Channels whose scale ended below {gamma.threshold:.3g} were pruned."
    charts: tuple[Chart, ...] = (scale_chart(gamma), *near_zero_charts(report.curves))
    return Section("gamma", "Batch-norm scales while training sparse", (lead,), charts=charts, place=70)


def scale_chart(gamma: GammaHistory) -> Heat:
    """The histogram over the epochs.

    Example:
        >>> scale_chart(GammaHistory((0.0, 0.5, 1.0), ((3, 61), (40, 24)), threshold=0.02)).caption
        'Stronger colour: more scales, counted on a logarithmic scale. Dashed line: pruning threshold 0.02.'
    """
    caption = "Stronger colour: more scales, counted on a logarithmic scale."
    label = f"Heat map of batch-norm scales over {len(gamma.counts):,} epochs"
    if gamma.threshold is not None:
        caption += f" Dashed line: pruning threshold {gamma.threshold:.3g}."
        label += f", with the pruning threshold at {gamma.threshold:.3g}"
    return Heat(
        "scales", f"{label}.", caption, "epoch", "|gamma|", gamma.edges, gamma.counts, gamma.threshold
    )
