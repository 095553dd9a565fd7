"""The course of the training runs: loss, accuracy, scales near zero."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from secateur.reports.charts import Line, Lines, percents
from secateur.reports.content import Curve, Report
from secateur.reports.section import Section, Values
from secateur.reports.sections import registered

POINTS_SHOWN = 20
"""Accuracies that lie more points below the best one are cut off."""


@registered("training")
def show_training(report: Report) -> Section | None:
    """Where each run ended, and its curves."""
    curves = [curve for curve in report.curves if curve.epochs]
    if not curves:
        return None
    columns = (
        Values("Run", tuple(curve.label for curve in curves)),
        Values("Epochs", tuple(len(curve.epochs) for curve in curves), "count"),
        Values("Final training loss", tuple(_last(curve.train_loss) for curve in curves), "real"),
        Values("Final training accuracy", tuple(_last(curve.train_accuracy) for curve in curves), "share"),
        Values("Final validation accuracy", tuple(_last(curve.val_accuracy) for curve in curves), "share"),
        Values(
            "Best validation accuracy",
            tuple(max(curve.val_accuracy, default=None) for curve in curves),
            "share",
        ),
        Values("Scales near zero", tuple(_last(curve.near_zero_share) for curve in curves), "share"),
    )
    has_scales = report.gamma is not None and report.gamma.has_counts
    charts = (*training_charts(curves), *(() if has_scales else near_zero_charts(curves)))
    return Section("training", "Training", columns=columns, charts=charts, place=80)


def training_charts(curves: Sequence[Curve]) -> tuple[Lines, ...]:
    """Loss and accuracy over the epochs; what was not recorded is left out.

    Example:
        >>> [chart.label for chart in training_charts([Curve("dense", (1, 2), train_loss=(1.2, 0.7))])]
        ['Line chart of training loss: dense ends at 0.7.']
    """
    return _loss(curves) + _accuracy(curves)


def near_zero_charts(curves: Sequence[Curve]) -> tuple[Lines, ...]:
    """The share of batch-norm scales near zero over the epochs, if it was recorded.

    Example:
        >>> near_zero_charts([Curve("sparse", (1, 2), near_zero_share=(0.1, 0.72))])[0].label
        'Line chart of the share of batch-norm scales near zero: sparse ends at 72.00 %.'
        >>> near_zero_charts([Curve("dense", (1, 2))])
        ()
    """
    lines = _lines(curves, [percents(curve.near_zero_share or ()) for curve in curves])
    if not lines:
        return ()
    ends = ", ".join(f"{line.name} ends at {line.ys[-1]:.2f} %" for line in lines)
    label = f"Line chart of the share of batch-norm scales near zero: {ends}."
    caption = "Share of batch-norm scales near zero: how much can be pruned at little cost."
    return (Lines("near-zero", label, caption, "epoch", "scales near zero (%)", lines, 0, 102, True),)


def _loss(curves: Sequence[Curve]) -> tuple[Lines, ...]:
    lines = _lines(curves, [curve.train_loss for curve in curves])
    if not lines:
        return ()
    ends = ", ".join(f"{line.name} ends at {line.ys[-1]:.3g}" for line in lines)
    label = f"Line chart of training loss: {ends}."
    return (Lines("loss", label, "Training loss.", "epoch", "training loss", lines, 0, None, True),)


def _accuracy(curves: Sequence[Curve]) -> tuple[Lines, ...]:
    """Accuracies; the lowest, early ones are cut off where they would flatten all others."""
    fitted = _lines(curves, [percents(curve.train_accuracy) for curve in curves], "pale")
    validated = tuple(
        replace(line, ring=line.ys.index(max(line.ys)))
        for line in _lines(curves, [percents(curve.val_accuracy) for curve in curves])
    )
    if not fitted and not validated:
        return ()
    ends = []
    for line in validated:
        assert line.ring is not None, "a validated line is ringed"
        best, epoch = line.ys[line.ring], int(line.xs[line.ring])
        ends.append(f"{line.name} validates at best {best:.2f} % in epoch {epoch}")
    caption = "Accuracy: validation strong, training pale; the ring marks the best validation accuracy."
    every = [value for line in (*fitted, *validated) for value in line.ys]
    least = most = None
    if max(every) - min(every) > POINTS_SHOWN:
        least, most = max(every) - POINTS_SHOWN, max(every) + 0.05 * POINTS_SHOWN
        caption += f" Values more than {POINTS_SHOWN} points below the best are cut off."
    label = f"Line chart of accuracy: {', '.join(ends) or 'training accuracy only'}."
    return (
        Lines("accuracy", label, caption, "epoch", "accuracy (%)", fitted + validated, least, most, True),
    )


def _lines(
    curves: Sequence[Curve], series: Sequence[Sequence[float]], looks: Literal["line", "pale"] = "line"
) -> tuple[Line, ...]:
    """A line for each curve with a finite value, in the colour of its place."""
    lines = []
    for place, (curve, values) in enumerate(zip(curves, series, strict=True)):
        if any(map(math.isfinite, values)):
            lines.append(Line(curve.label, curve.epochs, tuple(values), looks, place))
    return tuple(lines)


def _last(values: Sequence[float] | None) -> float | None:
    return values[-1] if values else None
