import math

import pytest
import torch

from secateur.domains.darknet import Head, decode
from secateur.domains.darknet.decoding import unfold
from secateur.errors import RequestError

ANCHORS = ((10.0, 20.0), (30.0, 40.0))


def head(**more):
    return Head(index=3, anchors=ANCHORS, mask=(0, 1), all_anchors=ANCHORS, classes=3, stride=8, **more)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("stretch", [1.0, 1.2])
def test_every_box_is_darknets_formula(stretch):
    """`get_yolo_box`, cell by cell, in Python's own floats."""
    one = head(scale_x_y=stretch)
    raw = torch.randn(2, one.channels, 3, 4, dtype=torch.float64)
    found = decode([raw], [one], (24, 32))
    boxes, scores, objectness = found
    number = 0
    for anchor, (width, height) in enumerate(ANCHORS):
        for row in range(3):
            for column in range(4):
                x, y, w, h, certain, *classes = raw[1, anchor * 8 : anchor * 8 + 8, row, column].tolist()
                left = (sigmoid(x) * stretch - 0.5 * (stretch - 1) + column) / 4 * 32 - math.exp(
                    w
                ) * width / 2
                top = (sigmoid(y) * stretch - 0.5 * (stretch - 1) + row) / 3 * 24 - math.exp(h) * height / 2
                expected = [left, top, left + math.exp(w) * width, top + math.exp(h) * height]
                assert boxes[1, number].tolist() == pytest.approx(expected)
                assert objectness[1, number].item() == pytest.approx(sigmoid(certain))
                expected = [sigmoid(certain) * sigmoid(one_class) for one_class in classes]
                assert scores[1, number].tolist() == pytest.approx(expected)
                number += 1
    assert boxes.shape == (2, number, 4)


def test_heads_follow_each_other():
    one = head()
    maps = [torch.randn(1, one.channels, 2, 2), torch.randn(1, one.channels, 4, 4)]
    both = decode(maps, [one, one], (16, 16))
    alone = [decode([raw], [one], (16, 16)) for raw in maps]
    for joint, *parts in zip(both, *alone, strict=True):
        assert torch.equal(joint, torch.cat(parts, 1))


def test_unfold_keeps_values_where_they_belong():
    one = head()
    raw = torch.randn(2, one.channels, 3, 4)
    assert torch.equal(unfold(raw, one)[1, 1, 2, 3], raw[1, 8:, 2, 3])


def test_maps_of_other_heads_are_refused():
    with pytest.raises(RequestError, match="1 maps, 2 heads"):
        decode([torch.zeros(1, 16, 2, 2)], [head(), head()], (16, 16))
    with pytest.raises(RequestError, match="a map of 15 channels, head 3 has 16"):
        decode([torch.zeros(1, 15, 2, 2)], [head()], (16, 16))
