"""Every layer before and after the cut."""

from secateur.reports import figures
from secateur.reports.charts import Bars
from secateur.reports.content import LayerRow, Report
from secateur.reports.section import Section, Values
from secateur.reports.sections import registered

SHOWN = 80
"""So many layers are drawn; the table has all."""


@registered("layers")
def show_layers(report: Report) -> Section | None:
    """Channels, parameters and MACs by layer."""
    layers = report.layers
    if not layers:
        return None
    before, after = (sum(row.channels_before for row in layers), sum(row.channels_after for row in layers))
    lead = (
        f"{len(layers):,} layer{'s' * (len(layers) != 1)}, {after:,} of {before:,} output channels kept"
        f" ({figures.percent(after / before if before else None)})."
    )
    columns = (
        Values("Layer", tuple(row.name for row in layers), "code"),
        Values("Kind", tuple(row.kind for row in layers)),
        Values("Channels before", tuple(row.channels_before for row in layers), "count"),
        Values("Channels after", tuple(row.channels_after for row in layers), "count"),
        Values("Parameters before", tuple(row.params_before for row in layers), "amount", scale="params"),
        Values("Parameters after", tuple(row.params_after for row in layers), "amount", scale="params"),
        Values("MACs before", tuple(row.macs_before for row in layers), "amount", scale="macs"),
        Values("MACs after", tuple(row.macs_after for row in layers), "amount", scale="macs"),
    )
    charts = (channel_chart(layers),)
    return Section("layers", "Channels per layer", (lead,), columns, charts, place=60)


def channel_chart(layers: tuple[LayerRow, ...]) -> Bars:
    """Kept channels over the original ones, a bar for each layer.

    Example:
        >>> channel_chart((LayerRow("features.0", "Conv2d", 64, 20, 1728, 540, 110_592, 34_560),)).label
        'Bar chart of output channels per layer: features.0 64 to 20.'
    """
    shown = layers
    caption = "Solid: channels kept. Pale: channels removed."
    if len(shown) > SHOWN:
        lost = sorted(range(len(shown)), key=lambda i: shown[i].channels_after - shown[i].channels_before)
        shown = tuple(layers[i] for i in sorted(lost[:SHOWN]))
        caption += f" The {SHOWN} layers that lost most of {len(layers):,}; the table lists all."
    pairs = [f"{row.name} {row.channels_before:,} to {row.channels_after:,}" for row in shown]
    return Bars(
        key="channels",
        label=f"Bar chart of output channels per layer: {', '.join(pairs)}.",
        caption=caption,
        xlabel="output channels",
        names=tuple(row.name for row in shown),
        values=tuple(row.channels_after for row in shown),
        words=tuple(_kept(row) for row in shown),
        wholes=tuple(row.channels_before for row in shown),
    )


def _kept(row: LayerRow) -> str:
    if row.channels_after == row.channels_before:
        return f"{row.channels_before:,}"
    return f"{row.channels_after:,} of {row.channels_before:,}"
