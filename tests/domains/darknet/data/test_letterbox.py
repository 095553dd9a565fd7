import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert

from secateur.domains.darknet.data.letterbox import Letterbox, input_size, multi_scale, rectangle
from secateur.errors import RequestError

sides = st.integers(8, 900)
inputs = st.integers(1, 20).map(lambda n: 32 * n)


@settings(max_examples=200, deadline=None)
@given(sides, sides, inputs, inputs)
def test_boxes_come_back_from_the_letterbox_as_they_went(height, width, target_height, target_width):
    letterbox = Letterbox((height, width), (target_height, target_width))
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.3, 0.6, 0.2, 0.1]])
    inside = letterbox.boxes(boxes) * torch.tensor([target_width, target_height] * 2)
    back = letterbox.back(box_convert(inside, "cxcywh", "xyxy"))
    expected = box_convert(boxes * torch.tensor([width, height] * 2), "cxcywh", "xyxy")
    # A box may lie a rounding of float32 off, relative to the image's size.
    assert torch.allclose(back, expected, atol=1e-5 * max(height, width) * 4)


@settings(max_examples=200, deadline=None)
@given(sides, sides, inputs, inputs)
def test_the_scaled_image_fills_one_side_and_keeps_its_aspect(height, width, target_height, target_width):
    letterbox = Letterbox((height, width), (target_height, target_width))
    (h, w), (top, left) = letterbox.inner, letterbox.corner
    assert h == target_height or w == target_width
    assert 1 <= h <= target_height
    assert 1 <= w <= target_width
    scale = min(target_height / height, target_width / width)
    assert abs(h - height * scale) <= 1
    assert abs(w - width * scale) <= 1
    assert top == (target_height - h) // 2
    assert left == (target_width - w) // 2


def test_the_image_lies_in_the_middle_of_grey():
    made = Letterbox((10, 20), (64, 64)).image(torch.full((3, 10, 20), 255, dtype=torch.uint8))
    assert torch.equal(made[:, 16:48], torch.ones(3, 32, 64))
    assert (made[:, :16] == 0.5).all()
    assert (made[:, 48:] == 0.5).all()


def test_an_image_of_the_right_size_is_only_rescaled_in_value():
    pixels = torch.arange(3 * 32 * 32).reshape(3, 32, 32).to(torch.uint8)
    assert torch.equal(Letterbox((32, 32), (32, 32)).image(pixels), pixels.float() / 255)


def test_boxes_outside_are_clipped_to_the_image():
    back = Letterbox((10, 20), (64, 64)).back(torch.tensor([[-5.0, 0.0, 80.0, 64.0]]))
    assert back.tolist() == [[0, 0, 20, 10]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=5), inputs)
def test_a_rectangle_keeps_the_scale_and_is_never_larger(sources, side):
    height, width = rectangle(sources, (side, side))
    assert height % 32 == width % 32 == 0
    assert max(height, width) <= side
    for source in sources:
        whole, small = Letterbox(source, (side, side)).inner, Letterbox(source, (height, width)).inner
        assert max(abs(a - b) for a, b in zip(whole, small, strict=True)) <= max(
            1, (max(whole) / max(1, min(whole)))
        )


def test_multi_scale_lists_multiples_of_the_stride():
    assert multi_scale(416)[0] == (288, 288)
    assert multi_scale(416)[-1] == (608, 608)
    assert multi_scale((96, 192), least=0.3, most=2)[2] == (64, 128)


@pytest.mark.parametrize("size", [0, 100, (96, 100), -32])
def test_a_size_that_is_no_multiple_of_the_stride_is_refused(size):
    with pytest.raises(RequestError, match="not a multiple of 32"):
        input_size(size)
