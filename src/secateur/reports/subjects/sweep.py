"""A sweep of a classifier: what it loses with channels, layers or blocks zeroed."""

from typing import Any

import torch
from pydantic import TypeAdapter

from secateur.reports.content import Report
from secateur.reports.section import Section
from secateur.reports.subject import Folder, registered
from secateur.sweep.blocks import BlockRow, BlockSweep
from secateur.sweep.channels import ChannelSweep, SweepRow
from secateur.sweep.curves import Curves, Point
from secateur.write.rows import folded, read_rows

FILES = ("sweep.jsonl", "curves.jsonl", "groups.jsonl", "blocks.jsonl")
"""What `secateur sweep` writes."""


@registered("sweep")
def of_sweep(thing: Any) -> Report | None:
    """Its figures and its picture."""
    if isinstance(thing, (ChannelSweep, Curves, BlockSweep)):
        return _report(thing.section())
    if not isinstance(thing, Folder):
        return None
    shown = [
        section
        for name in FILES
        if (thing.path / name).is_file() and (section := _section(*read_rows(thing.path / name))) is not None
    ]
    return _report(*shown) if shown else None


def _report(*sections: Section) -> Report:
    return Report(title="Sweep", created="", command="", model="", more=sections)


def _section(opening: dict[str, Any], rows: list[dict[str, Any]]) -> Section | None:
    """What the rows of one file say; None for a sweep of another kind, or one that has no row yet."""
    kind = opening.get("sweep") if rows else None
    if kind == "channels":
        held = TypeAdapter(tuple[SweepRow, ...]).validate_python(_in_order(rows, "count", SweepRow))
        return ChannelSweep(
            opening["layer"], opening["where"], opening["criterion"], torch.empty(0), held
        ).section()
    if kind == "sensitivity":
        points = TypeAdapter(tuple[Point, ...]).validate_python(_in_order(rows, "ratio", Point))
        by_layer = {point.layer: () for point in points}
        curves = {name: tuple(point for point in points if point.layer == name) for name in by_layer}
        by, figure = opening.get("by", "layers"), rows[0].get("figure", "accuracy")
        return Curves(_named(opening["criterion"]), curves, {}, by, figure).section()
    if kind == "blocks":
        dense = rows[0]["dense"]
        for row in rows:
            del row["dense"]
        blocks = [folded(row, BlockRow) for row in rows]
        return BlockSweep(dense, TypeAdapter(tuple[BlockRow, ...]).validate_python(blocks)).section()
    return None


def _in_order(rows: list[dict[str, Any]], key: str, kind: type) -> list[dict[str, Any]]:
    return [folded(row, kind) for row in sorted(rows, key=lambda row: row[key])]


def _named(criterion: Any) -> str:
    """A criterion is described as its name, or as its name with options."""
    return str(criterion["name"]) if isinstance(criterion, dict) and "name" in criterion else str(criterion)
