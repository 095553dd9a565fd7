"""`[yolo]`: says how the map before it is read as boxes; computes nothing, the map leaves the network raw."""

from dataclasses import fields

from torch import nn

from secateur.domains.darknet.heads import Head
from secateur.domains.darknet.layers import Layer, SectionPlace, kinds

__all__ = ["Yolo"]


class Yolo(nn.Identity):
    """Marks a map that leaves the network."""


@kinds("yolo")
def yolo(place: SectionPlace) -> Layer:
    """Build `[yolo]`."""
    place.require(new_coords="0")
    anchors, classes = _anchors(place), place.integer("classes", 20, least=1)
    mask = place.integers("mask", ",".join(map(str, range(len(anchors)))))
    for position in mask:
        if not 0 <= position < len(anchors):
            do = f"write positions from 0 to {len(anchors) - 1}"
            raise place.error(f"mask={position} of {len(anchors)} anchors", "mask", do=do)
    wanted = len(mask) * (5 + classes)
    if place.before.channels != wanted:
        raise _filters_error(place, len(mask), classes, wanted)
    stride = place.before.stride
    if stride.denominator != 1:
        do = "remove an [upsample], or add a stride before it"
        raise place.error(f"a cell of the map is {stride} pixels of the input", do=do)
    head = Head(
        index=place.index,
        anchors=tuple(anchors[position] for position in mask),
        mask=mask,
        all_anchors=anchors,
        classes=classes,
        stride=int(stride),
        iou_loss=place.section.get("iou_loss") or Head.iou_loss,
        # The other keys are called as in the cfg, and what they are without a line stands in `Head`.
        **{
            key.name: place.number(key.name, key.default)
            for key in fields(Head)
            if isinstance(key.default, float)
        },
    )
    return Layer(Yolo(), place.before, (place.index - 1,), head)


def _anchors(place: SectionPlace) -> tuple[tuple[float, float], ...]:
    values, count = place.numbers("anchors"), place.integer("num", 1, least=1)
    if len(values) != 2 * count:
        do = "write a width and a height for each of num anchors"
        raise place.error(
            f"anchors holds {len(values)} numbers, num={count} needs {2 * count}", "anchors", do=do
        )
    return tuple(zip(values[::2], values[1::2], strict=True))


def _filters_error(place: SectionPlace, anchors: int, classes: int, wanted: int) -> Exception:
    what = f"{anchors} anchors of {classes} classes need {wanted} channels, got {place.before.channels}"
    line = f"{place.config.name}:{place.config.line(place.index)}: [yolo], classes={classes}"
    before = place.index - 1
    if before >= 0 and place.config.layer(before).name == "convolutional":
        context = (line, f"{anchors} * (5 + {classes}) = {wanted}")
        do = f"write filters={wanted} here, or other classes there"
        return place.config.error(what, before, "filters", context=context, do=do)
    return place.error(what, "classes", do="put a [convolutional] with that many filters before it")
