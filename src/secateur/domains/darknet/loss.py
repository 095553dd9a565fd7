"""YOLOv3's loss on raw maps, all images and heads at once.

For each box the anchor (of all heads) that overlaps it best as a shape is asked for it, in the cell with
its centre; further anchors are where `iou_thresh` is below 1, further predictions where `truth_thresh` is.

    box         mse: (2 - w h) (bce(x, x*) + bce(y, y*) + (w - w*)^2 / 2 + (h - h*)^2 / 2) on raw values
                iou, giou, diou, ciou: that loss of the decoded box
    objectness  bce(o, 1) where asked for, bce(o, 0) elsewhere, but for predictions that overlap some box by
                more than `ignore_thresh`
    classes     sum of bce(c, 1 for the box's class, else 0) where asked for

Each part is summed over cells, weighted by the head's normaliser, and divided by the number of images. The
mse form has exactly the gradients of Darknet's `delta`. Where two boxes ask for one prediction Darknet lets
the last one have the box; here both pull.

References:
    Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, section 2. https://arxiv.org/abs/1804.02767
    `forward_yolo_layer` of Darknet's `src/yolo_layer.c`.
    Mehta and Ozturk, "Object detection at 200 Frames Per Second", 2018, section 3.3 (distillation).
    https://arxiv.org/abs/1805.06361
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from secateur.domains.darknet.decoding import decode_boxes, unfold
from secateur.domains.darknet.heads import Head
from secateur.errors import RequestError
from secateur.extras import Later

ops = Later("torchvision.ops")

__all__ = ["BOX_LOSSES", "Loss", "distillation_loss", "yolo_loss"]

EDGE = 1e-4
"""Targets of x and y stay this far from 0 and 1, where their logit would be infinite."""


def _iou_loss(found: Tensor, wanted: Tensor, reduction: str) -> Tensor:
    corner = torch.maximum(found[:, :2], wanted[:, :2]), torch.minimum(found[:, 2:], wanted[:, 2:])
    shared = (corner[1] - corner[0]).clamp(min=0).prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1) - shared
    loss = 1 - shared / (union + 1e-7)
    return loss.sum() if reduction == "sum" else loss


_OVERLAP_LOSSES: dict[str, Callable[..., Tensor]] = {
    "iou": _iou_loss,
    "giou": lambda *boxes, **how: ops.generalized_box_iou_loss(*boxes, **how),
    "diou": lambda *boxes, **how: ops.distance_box_iou_loss(*boxes, **how),
    "ciou": lambda *boxes, **how: ops.complete_box_iou_loss(*boxes, **how),
}

BOX_LOSSES = ("mse", *_OVERLAP_LOSSES)
"""What `box_loss` and a cfg's `iou_loss` may be."""


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of a batch and its parts, each per image and with its weight.

    Attributes:
        box: Places and sizes.
        objectness: Whether there is something.
        classes: What it is.
        assigned: How many predictions were asked for, in all images together.
    """

    box: Tensor
    objectness: Tensor
    classes: Tensor
    assigned: int

    @property
    def total(self) -> Tensor:
        """The sum of the parts, to be differentiated."""
        return self.box + self.objectness + self.classes


def yolo_loss(
    maps: Sequence[Tensor],
    heads: Sequence[Head],
    targets: Float[Tensor, "boxes 6"],
    size: tuple[int, int],
    *,
    box_loss: str | None = None,
) -> Loss:
    """Compute the loss of a batch.

    Args:
        maps: The raw maps, one for each head; computed in float32 whatever their dtype is.
        heads: The network's `heads`.
        targets: A row for each box: index of the image in the batch, class, centre x, centre y, width and
            height as shares of the input.
        size: Height and width of the images in pixels.
        box_loss: "mse", "iou", "giou", "diou" or "ciou"; None takes what each head's cfg says.

    Returns:
        The loss and its parts.

    Raises:
        RequestError: The maps are not those of the heads, a target is not of this batch, has no class of the
            heads or no area, or the box loss is unknown.

    Example:
        >>> from secateur.domains.darknet import Darknet
        >>> model = Darknet("digits")
        >>> targets = torch.tensor([[0.0, 7.0, 0.5, 0.5, 0.2, 0.3]])
        >>> loss = yolo_loss(model(torch.zeros(1, 3, 96, 96)), model.heads, targets, (96, 96))
        >>> loss.assigned, loss.total.requires_grad
        (5, True)
    """
    if len(maps) != len(heads):
        what = f"{len(maps)} maps, {len(heads)} heads"
        raise RequestError(what, do="pass what the network returned, and its heads")
    _require_targets(targets, heads, len(maps[0]))
    targets = targets.to(maps[0].device, torch.float32)
    zero = maps[0].new_zeros((), dtype=torch.float32)
    parts = Loss(zero, zero, zero, 0)
    for raw, head in zip(maps, heads, strict=True):
        chosen = box_loss or head.iou_loss
        if chosen not in BOX_LOSSES:
            known = [f"known: {', '.join(BOX_LOSSES)}"]
            raise RequestError(
                f"the box loss of layer {head.index} is '{chosen}'", known, "choose one of them"
            )
        found = _head_loss(unfold(raw.float(), head), head, targets, size, chosen)
        parts = Loss(
            parts.box + found.box,
            parts.objectness + found.objectness,
            parts.classes + found.classes,
            parts.assigned + found.assigned,
        )
    return parts


def distillation_loss(
    maps: Sequence[Tensor], teacher: Sequence[Tensor], heads: Sequence[Head]
) -> Float[Tensor, ""]:
    """Measure how far raw maps are from a teacher's, where the teacher sees something.

    Objectness follows the teacher everywhere (bce against its probability); classes (bce) and raw box values
    (half the squared difference) count in proportion to the teacher's objectness, so that the many empty
    cells, where they mean nothing, do not drown the others.

    Args:
        maps: The student's raw maps.
        teacher: The teacher's, of the same shapes.
        heads: The student's heads.

    Returns:
        The sum over cells, per image.

    Raises:
        RequestError: The shapes differ.
    """
    total = maps[0].new_zeros((), dtype=torch.float32)
    for raw, model, head in zip(maps, teacher, heads, strict=True):
        if raw.shape != model.shape:
            what = f"maps of shape {tuple(raw.shape)}, the teacher's are {tuple(model.shape)}"
            raise RequestError(what, do="choose a teacher with the same anchors, classes and input size")
        ours, theirs = unfold(raw.float(), head), unfold(model.detach().float(), head)
        certain = theirs[..., 4].sigmoid()
        objectness = bce(ours[..., 4], certain, reduction="sum")
        classes = bce(ours[..., 5:], theirs[..., 5:].sigmoid(), reduction="none").sum(-1)
        boxes = (ours[..., :4] - theirs[..., :4]).square().sum(-1) / 2
        total = total + objectness + (certain * (classes + boxes)).sum()
    return total / len(maps[0])


@dataclass(frozen=True, eq=False)
class _Assigned:
    """Which predictions of a head are asked for which boxes: places in the unfolded map, target rows."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor

    @property
    def place(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.image, self.anchor, self.row, self.column


def _head_loss(cells: Tensor, head: Head, targets: Tensor, size: tuple[int, int], box_loss: str) -> Loss:
    images, rows, columns = cells.shape[0], cells.shape[2], cells.shape[3]
    overlap, nearest = _best_overlap(cells.detach(), head, targets, size)
    assigned = _assign(head, targets, size, (rows, columns))
    if head.truth_thresh < 1:
        assigned = _joined(assigned, overlap > head.truth_thresh, nearest)
    wanted = torch.zeros(cells.shape[:4], device=cells.device)
    wanted[assigned.place] = 1
    counted = (overlap <= head.ignore_thresh) | (wanted > 0)
    objectness = bce(cells[..., 4], wanted, counted.float(), reduction="sum")
    zero = cells.new_zeros(())
    if not len(assigned.target):
        return Loss(zero, objectness * head.obj_normalizer / images, zero, 0)
    boxes = targets[assigned.target, 2:]
    if box_loss == "mse":
        box = _mse(cells, head, assigned, boxes, size)
    else:
        found = decode_boxes(cells, head, size)[assigned.place]
        truth = ops.box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([size[1], size[0]] * 2)
        box = _OVERLAP_LOSSES[box_loss](found, truth, reduction="sum")
    labels = torch.zeros((*cells.shape[:4], head.classes), device=cells.device)
    labels[(*assigned.place, targets[assigned.target, 1].long())] = 1
    asked = wanted > 0
    classes = bce(cells[..., 5:][asked], labels[asked], reduction="sum")
    return Loss(
        box * head.iou_normalizer / images,
        objectness * head.obj_normalizer / images,
        classes * head.cls_normalizer / images,
        int(asked.sum()),
    )


def _best_overlap(cells: Tensor, head: Head, targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """For each prediction the largest IoU with a box of its image, and that box's row (-1 for none)."""
    found = decode_boxes(cells, head, size)
    overlap = torch.zeros(cells.shape[:4], device=cells.device)
    nearest = torch.full(cells.shape[:4], -1, device=cells.device)
    scale = targets.new_tensor([size[1], size[0]] * 2)
    for image in targets[:, 0].unique().long().tolist():
        own = torch.nonzero(targets[:, 0] == image).flatten()
        truth = ops.box_convert(targets[own, 2:], "cxcywh", "xyxy") * scale
        best, which = ops.box_iou(found[image].flatten(0, 2), truth).max(1)
        overlap[image] = best.view(overlap.shape[1:])
        nearest[image] = own[which].view(overlap.shape[1:])
    return overlap, nearest


def _assign(head: Head, targets: Tensor, size: tuple[int, int], cells: tuple[int, int]) -> _Assigned:
    """The predictions that the shapes of the anchors choose."""
    extents = targets[:, 4:] * targets.new_tensor([size[1], size[0]])
    anchors = targets.new_tensor(head.all_anchors)
    shared = torch.minimum(extents[:, None], anchors).prod(-1)
    likeness = shared / (extents.prod(-1)[:, None] + anchors.prod(-1) - shared)
    best = likeness.argmax(1)[:, None] == torch.arange(len(anchors), device=targets.device)
    asked = (best | (likeness > head.iou_thresh))[:, list(head.mask)]
    target, anchor = torch.nonzero(asked, as_tuple=True)
    centres = targets[target, 2:4] * targets.new_tensor([cells[1], cells[0]])
    column = centres[:, 0].long().clamp(0, cells[1] - 1)
    row = centres[:, 1].long().clamp(0, cells[0] - 1)
    return _Assigned(targets[target, 0].long(), anchor, row, column, target)


def _joined(assigned: _Assigned, more: Tensor, nearest: Tensor) -> _Assigned:
    image, anchor, row, column = torch.nonzero(more, as_tuple=True)
    return _Assigned(
        torch.cat([assigned.image, image]),
        torch.cat([assigned.anchor, anchor]),
        torch.cat([assigned.row, row]),
        torch.cat([assigned.column, column]),
        torch.cat([assigned.target, nearest[more]]),
    )


def _mse(cells: Tensor, head: Head, assigned: _Assigned, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    raw = cells[assigned.place][:, :4]
    grid = boxes.new_tensor([cells.shape[3], cells.shape[2]])
    corner = torch.stack([assigned.column, assigned.row], 1)
    stretch = head.scale_x_y
    place = (boxes[:, :2] * grid - corner + (stretch - 1) / 2) / stretch
    anchors = boxes.new_tensor(head.anchors)[assigned.anchor]
    extent = (boxes[:, 2:] * boxes.new_tensor([size[1], size[0]]) / anchors).log()
    weight = (2 - boxes[:, 2:].prod(1))[:, None]
    places = bce(raw[:, :2], place.clamp(EDGE, 1 - EDGE), reduction="none")
    return (weight * (places + (raw[:, 2:] - extent).square() / 2)).sum()


def _require_targets(targets: Tensor, heads: Sequence[Head], images: int) -> None:
    if targets.dim() != 2 or targets.shape[1] != 6:
        what = f"targets of shape {tuple(targets.shape)}"
        raise RequestError(what, do="pass rows of image, class, centre x, centre y, width, height")
    if not len(targets):
        return
    classes = min(head.classes for head in heads)
    limits = (("image", targets[:, 0], images), ("class", targets[:, 1], classes))
    for name, column, count in limits:
        outside = (column < 0) | (column >= count)
        if outside.any():
            first = int(outside.nonzero()[0])
            what = f"target {first} is of {name} {column[first]:g}, there are {count}"
            raise RequestError(what, do="use the cfg of this data set")
    if not (targets[:, 4:] > 0).all() or not targets.isfinite().all():
        first = int(((targets[:, 4:] <= 0).any(1) | ~targets.isfinite().all(1)).nonzero()[0])
        shown = ", ".join(f"{value:g}" for value in targets[first, 2:].tolist())
        what = f"the box of target {first} is {shown}"
        raise RequestError(what, do="leave out boxes without an area")
