import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from secateur.domains.darknet.data.augment import Augmentation, augment
from secateur.domains.darknet.data.boxes import Labels
from secateur.domains.darknet.data.mosaic import mosaic
from secateur.errors import RequestError

STILL = {"flip": 0.0, "hue": 0.0, "saturation": 1.0, "exposure": 1.0, "shift": 0.0, "scale": (1.0, 1.0)}


def white_square(height=64, width=64):
    """An image that is white where its one box is, and black elsewhere."""
    image = torch.zeros(3, height, width)
    image[:, 16:32, 20:44] = 1
    return image, Labels.of([(0, (32 / width, 24 / height, 24 / width, 16 / height))])


def ink_of(image):
    """The box around what is nearly white, in pixels."""
    rows, columns = torch.nonzero(image.mean(0) > 0.8, as_tuple=True)
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def pixels(labels, image):
    height, width = image.shape[1:]
    return box_convert(labels.boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip": 1.0},
        {"shift": 0.2},
        {"scale": (0.5, 0.5)},
        {"scale": (1.3, 1.3)},
        {"flip": 0.5, "shift": 0.15, "scale": (0.7, 1.3)},
    ],
)
def test_boxes_go_where_their_pixels_go(changes):
    transform = Augmentation(**{**STILL, **changes}).transform()
    torch.manual_seed(0)
    for _ in range(20):
        image, labels = augment(transform, *white_square())
        assert image.shape == (3, 64, 64)
        (box,) = pixels(labels, image)
        assert (box - ink_of(image)).abs().max() <= 1.5


def test_a_rotated_box_holds_its_pixels():
    transform = Augmentation(**{**STILL, "degrees": 20.0}).transform()
    torch.manual_seed(0)
    for _ in range(20):
        image, labels = augment(transform, *white_square())
        (box,) = pixels(labels, image)
        ink = ink_of(image)
        assert (box[:2] <= ink[:2] + 1).all()
        assert (box[2:] >= ink[2:] - 1).all()


def test_nothing_to_change_changes_nothing():
    image, labels = white_square()
    changed, moved = augment(Augmentation(**STILL).transform(), image, labels)
    assert torch.equal(changed, image)
    assert torch.allclose(moved.boxes, labels.boxes)


def test_boxes_are_clipped_to_the_image_and_dropped_when_they_leave_it():
    transform = Augmentation(**{**STILL, "shift": 0.9}).transform()
    torch.manual_seed(0)
    counts = []
    for _ in range(60):
        image, labels = augment(transform, *white_square())
        counts.append(len(labels))
        corners = pixels(labels, image)
        assert (corners >= -1e-3).all()
        assert (corners <= 64 + 1e-3).all()
        area = (labels.boxes[:, 2] * labels.boxes[:, 3]) * 64 * 64
        assert (area >= 0.25 * 24 * 16 - 1).all()
    assert set(counts) == {0, 1}


def test_colours_change_and_boxes_do_not():
    transform = Augmentation(**{**STILL, "hue": 0.2, "saturation": 1.5, "exposure": 1.5}).transform()
    torch.manual_seed(1)
    image, labels = white_square()
    image[0] *= 0.5
    changed, moved = augment(transform, image, labels)
    assert not torch.allclose(changed, image, atol=0.02)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.allclose(moved.boxes, labels.boxes)


def test_an_image_without_boxes_can_be_augmented():
    _, labels = augment(Augmentation().transform(), torch.rand(3, 64, 64), Labels.of([]))
    assert labels.boxes.shape == (0, 4)


def test_a_mosaic_keeps_boxes_on_their_pixels():
    generator = np.random.default_rng(0)
    counts = set()
    for _ in range(20):
        images = []
        for label in range(4):
            image, labels = white_square()
            image[:, 16:32, 20:44] = (label + 1) / 4
            image8 = (image * 255).to(torch.uint8)
            images.append((image8, Labels.of([(label, labels.boxes[0].tolist())])))
        canvas, together = mosaic(images, (96, 96), generator)
        assert canvas.shape == (3, 96, 96)
        counts.add(len(together))
        for label, box in zip(together.classes.tolist(), pixels(together, canvas).tolist(), strict=True):
            left, top, right, bottom = (round(edge) for edge in box)
            inner = canvas[:, top + 2 : bottom - 2, left + 2 : right - 2]
            assert inner.numel() > 0
            assert (inner - (label + 1) / 4).abs().max() < 0.05
    assert max(counts) == 4


def test_settings_come_from_a_cfg():
    options = {"hue": ".05", "saturation": "1.2", "exposure": "1.4", "angle": "3", "flip": "0", "mosaic": "1"}
    made = Augmentation.of_cfg(options)
    assert made == Augmentation(flip=0, hue=0.05, saturation=1.2, exposure=1.4, degrees=3, mosaic=0.5)
    with pytest.raises(RequestError, match="could not convert"):
        Augmentation.of_cfg({"hue": "much"})


@pytest.mark.parametrize("wrong", [{"flip": 2}, {"hue": 0.6}, {"saturation": 0.5}, {"scale": (1.2, 0.8)}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(RequestError, match="allowed"):
        Augmentation(**wrong)
