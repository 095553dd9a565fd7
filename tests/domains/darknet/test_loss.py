"""The vectorised loss against loops over cells, written from Darknet's description, gradients included."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from secateur.domains.darknet.heads import Head
from secateur.domains.darknet.loss import distillation_loss, yolo_loss
from secateur.errors import RequestError

ALL = ((6.0, 8.0), (12.0, 10.0), (20.0, 24.0), (30.0, 16.0))
SIZE = (32, 48)  # height, width


def heads(**options):
    coarse = Head(3, ALL[2:], (2, 3), ALL, 3, 16, **options)
    return coarse, Head(7, ALL[:2], (0, 1), ALL, 3, 8, **options)


def maps(seed=0, images=2):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(images, 16, 2, 3), (images, 16, 4, 6)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).float() for shape in shapes]


TARGETS = torch.tensor(
    [
        [0, 1, 0.40, 0.30, 0.42, 0.70],
        [0, 0, 0.81, 0.66, 0.13, 0.24],
        [1, 2, 0.10, 0.95, 0.24, 0.31],
        [1, 2, 0.55, 0.49, 0.60, 0.52],
    ]
)


def overlap(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def shape_overlap(first, second):
    shared = min(first[0], second[0]) * min(first[1], second[1])
    return shared / (first[0] * first[1] + second[0] * second[1] - shared)


def corners(target):
    _, _, x, y, w, h = target.tolist()
    height, width = SIZE
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height


def box_of(cell, head, anchor, row, column):
    stretch = head.scale_x_y
    x, y = ((cell[k].sigmoid() * stretch - (stretch - 1) / 2) for k in (0, 1))
    centre = (x + column) * head.stride, (y + row) * head.stride
    w, h = cell[2].exp() * head.anchors[anchor][0], cell[3].exp() * head.anchors[anchor][1]
    return centre[0] - w / 2, centre[1] - h / 2, centre[0] + w / 2, centre[1] + h / 2


def asked_for(head, target, rows, columns):
    """Anchor, row and column of the predictions that a box asks for."""
    extent = target[4].item() * SIZE[1], target[5].item() * SIZE[0]
    likeness = [shape_overlap(extent, anchor) for anchor in ALL]
    place = int(target[3] * rows), int(target[2] * columns)
    best = max(range(len(ALL)), key=likeness.__getitem__)
    chosen = [n for n in range(len(ALL)) if n == best or likeness[n] > head.iou_thresh]
    return [(head.mask.index(n), *place) for n in chosen if n in head.mask]


def box_term(kind, cell, head, place, target):
    anchor, row, column = place
    if kind != "mse":
        found = torch.stack(box_of(cell, head, anchor, row, column))[None]
        loss = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}[kind]
        return loss(found, torch.tensor(corners(target))[None], reduction="sum")
    _, _, x, y, w, h = target.tolist()
    stretch = head.scale_x_y
    wanted = [
        (x * SIZE[1] / head.stride - column + (stretch - 1) / 2) / stretch,
        (y * SIZE[0] / head.stride - row + (stretch - 1) / 2) / stretch,
        math.log(w * SIZE[1] / head.anchors[anchor][0]),
        math.log(h * SIZE[0] / head.anchors[anchor][1]),
    ]
    scale = 2 - w * h
    near = sum(bce(cell[k], torch.tensor(wanted[k])) for k in (0, 1))
    return scale * (near + sum((cell[k] - wanted[k]) ** 2 / 2 for k in (2, 3)))


def by_loops(maps, heads, targets, kind):
    box = objectness = classes = torch.zeros(())
    for raw, head in zip(maps, heads, strict=True):
        images, _, rows, columns = raw.shape
        for image in range(images):
            own = [target for target in targets if int(target[0]) == image]
            labels = {}
            for target in own:
                for place in asked_for(head, target, rows, columns):
                    cell = raw[image].view(2, 8, rows, columns)[place[0], :, place[1], place[2]]
                    box = box + head.iou_normalizer * box_term(kind, cell, head, place, target)
                    labels.setdefault(place, set()).add(int(target[1]))
            for anchor in range(2):
                for row in range(rows):
                    for column in range(columns):
                        cell = raw[image].view(2, 8, rows, columns)[anchor, :, row, column]
                        found = [value.item() for value in box_of(cell, head, anchor, row, column)]
                        best = max((overlap(found, corners(target)) for target in own), default=0)
                        is_asked = (anchor, row, column) in labels
                        if is_asked or best <= head.ignore_thresh:
                            wanted = torch.tensor(float(is_asked))
                            objectness = objectness + head.obj_normalizer * bce(cell[4], wanted)
                        for number in range(3 if is_asked else 0):
                            wanted = torch.tensor(float(number in labels[anchor, row, column]))
                            classes = classes + head.cls_normalizer * bce(cell[5 + number], wanted)
    return [part / len(maps[0]) for part in (box, objectness, classes)]


OPTIONS = [
    {"ignore_thresh": 0.3},
    {"ignore_thresh": 0.3, "iou_thresh": 0.3, "scale_x_y": 1.2},
    {"iou_normalizer": 0.5, "cls_normalizer": 2.0, "obj_normalizer": 3.0, "ignore_thresh": 0.1},
]


@pytest.mark.parametrize("kind", ["mse", "giou", "ciou"])
@pytest.mark.parametrize("options", OPTIONS)
def test_loss_and_gradients_equal_loops_over_cells(kind, options):
    ours, theirs = ([raw.clone().requires_grad_() for raw in maps()] for _ in range(2))
    found = yolo_loss(ours, heads(**options), TARGETS, SIZE, box_loss=kind)
    box, objectness, classes = by_loops(theirs, heads(**options), TARGETS, kind)
    for part, wanted in zip(
        (found.box, found.objectness, found.classes), (box, objectness, classes), strict=True
    ):
        torch.testing.assert_close(part, wanted, rtol=1e-5, atol=1e-5)
    found.total.backward()
    (box + objectness + classes).backward()
    for mine, wanted in zip(ours, theirs, strict=True):
        assert wanted.grad.abs().sum() > 0
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-4, atol=1e-5)


def test_the_gradients_of_places_and_sizes_are_darknets_deltas():
    head = Head(0, ((20.0, 24.0),), (0,), ((20.0, 24.0),), 1, 16, iou_normalizer=1.0)
    raw = torch.zeros(1, 6, 2, 3, requires_grad=True)
    target = torch.tensor([[0, 0, 0.5, 0.5, 0.5, 0.5]])
    yolo_loss([raw], [head], target, SIZE).box.backward()
    scale = 2 - 0.25
    # delta = scale * (truth - prediction); the loss's gradient is its negative. The centre is (1.5, 1.0).
    expected = [
        scale * (0.5 - 0.5),
        scale * (0.5 - 1e-4),
        scale * -math.log(24 / 20),
        scale * -math.log(16 / 24),
    ]
    torch.testing.assert_close(raw.grad[0, :4, 1, 1], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_predictions_above_the_truth_threshold_are_asked_for_too():
    strict, loose = heads(truth_thresh=1.0), heads(truth_thresh=0.05)
    few, many = (yolo_loss(maps(), each, TARGETS, SIZE) for each in (strict, loose))
    assert many.assigned > few.assigned == len(TARGETS)


def test_without_boxes_everything_is_background():
    raw = [one.requires_grad_() for one in maps()]
    loss = yolo_loss(raw, heads(), torch.zeros(0, 6), SIZE)
    assert loss.assigned == 0
    assert loss.box == 0
    assert loss.classes == 0
    loss.total.backward()
    assert all((one.grad.unflatten(1, (2, 8))[:, :, 4] > 0).all() for one in raw)


def test_two_boxes_in_one_cell_both_count():
    twin = TARGETS[:1].repeat(2, 1)
    twin[1, 1] = 2
    loss = yolo_loss(maps(), heads(), twin, SIZE)
    assert loss.assigned == 1
    single = [yolo_loss(maps(), heads(), twin[n : n + 1], SIZE).box for n in range(2)]
    torch.testing.assert_close(loss.box, sum(single))


def test_the_loss_falls_to_almost_nothing_for_perfect_maps():
    head = Head(0, ((16.0, 16.0),), (0,), ((16.0, 16.0),), 2, 16)
    raw = torch.full((1, 7, 2, 3), -12.0)
    raw[0, :, 1, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 12.0, -12.0, 12.0])
    target = torch.tensor([[0, 1, 2.5 / 3, 1.5 / 2, 16 / 48, 16 / 32]])
    for kind in ("iou", "giou", "diou", "ciou"):
        assert yolo_loss([raw], [head], target, SIZE, box_loss=kind).total < 1e-3
    assert yolo_loss([raw], [head], target, SIZE).box < 3  # the entropy of x = y = 1/2 stays


def test_distillation_is_least_at_the_teacher_and_counts_where_it_sees_something():
    teacher, other = maps(1), maps(2)
    at_teacher = [raw.clone().requires_grad_() for raw in teacher]
    distillation_loss(at_teacher, teacher, heads()).backward()
    assert all(raw.grad.abs().max() < 1e-6 for raw in at_teacher)
    away = distillation_loss(other, teacher, heads())
    assert away > distillation_loss(teacher, teacher, heads())
    blind = [raw.unflatten(1, (2, 8)).clone() for raw in teacher]
    for raw in blind:
        raw[:, :, 4] = -30
    blind = [raw.flatten(1, 2) for raw in blind]
    moved = [raw.clone() for raw in blind]
    for raw in moved:
        raw.unflatten(1, (2, 8))[:, :, :4] += 1
    torch.testing.assert_close(*(distillation_loss(raw, blind, heads()) for raw in (moved, blind)))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[2, 0, 0.5, 0.5, 0.1, 0.1]], "of image 2, there are 2"),
        ([[0, 3, 0.5, 0.5, 0.1, 0.1]], "of class 3, there are 3"),
        ([[0, 0, 0.5, 0.5, 0.0, 0.1]], "the box of target 0 is 0.5, 0.5, 0, 0.1"),
        ([[0, 0, 0.5, math.nan, 0.1, 0.1]], "the box of target 0"),
        ([[0, 0, 0.5]], r"targets of shape \(1, 3\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets, message):
    with pytest.raises(RequestError, match=message):
        yolo_loss(maps(), heads(), torch.tensor(targets), SIZE)


def test_wrong_maps_and_words_are_refused():
    with pytest.raises(RequestError, match="1 maps, 2 heads"):
        yolo_loss(maps()[:1], heads(), TARGETS, SIZE)
    with pytest.raises(RequestError, match="the box loss of layer 3 is 'l1'"):
        yolo_loss(maps(), heads(), TARGETS, SIZE, box_loss="l1")
    with pytest.raises(RequestError, match="choose a teacher"):
        distillation_loss(maps(), maps(images=1), heads())
