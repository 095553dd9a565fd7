import hashlib

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, box_iou

from secateur.domains.darknet.data import check_labels, digit_scenes, digits, make_digits, read
from secateur.domains.darknet.data.digits import _digits, _glyph
from secateur.errors import RequestError


def fingerprint(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def test_the_same_seed_writes_the_same_bytes_another_seed_other_scenes(tmp_path):
    for name, seed in (("a/digits", 0), ("b/digits", 0), ("c/digits", 1)):
        make_digits(tmp_path / name, images=4, valid=2, seed=seed)
    one, again, other = (fingerprint(tmp_path / name / "digits") for name in "abc")
    assert one == again
    assert [name for name, _ in one] == [name for name, _ in other]
    assert dict(one)["images/train/train-00000.png"] != dict(other)["images/train/train-00000.png"]


def test_a_scene_does_not_depend_on_how_many_there_are():
    few, many = digit_scenes(train=2, valid=1), digit_scenes(train=3, valid=2)
    for part in ("train", "valid"):
        for a, b in zip(few[part], many[part], strict=False):
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.labels.boxes, b.labels.boxes)


def test_the_written_set_reads_as_the_scenes_in_memory(tmp_path):
    report = make_digits(tmp_path / "digits", images=5, valid=2, size=128, seed=3)
    assert report.images == {"train": 5, "valid": 2}
    scenes, written = digit_scenes(train=5, valid=2, size=128, seed=3), read(tmp_path / "digits/digits.data")
    assert written.names == tuple("0123456789")
    for part in ("train", "valid"):
        for a, b in zip(scenes[part], written[part], strict=True):
            assert torch.equal(a.labels.classes, b.labels.classes)
            assert torch.allclose(a.labels.boxes, b.labels.boxes, atol=1e-6)


def test_validation_digits_are_in_no_training_scene():
    train, valid = _digits()
    assert len(train.glyphs) + len(valid.glyphs) == 1797
    assert set(valid.classes) == set(train.classes) == set(range(10))
    # The 1,797 digits are all different, so equal pixels would mean the same digit.
    assert not {glyph.tobytes() for glyph in train.glyphs} & {glyph.tobytes() for glyph in valid.glyphs}


def test_scenes_are_made_of_the_digits_of_their_part(monkeypatch):
    pasted = []

    def spy(pixels, size, generator):
        pasted.append(pixels.tobytes())
        return _glyph(pixels, size, generator)

    monkeypatch.setattr(digits, "_glyph", spy)
    for part, counts in zip(_digits(), ({"train": 9, "valid": 0}, {"train": 0, "valid": 9}), strict=True):
        pasted.clear()
        digit_scenes(**counts)
        assert len(pasted) >= 18
        assert set(pasted) <= {glyph.tobytes() for glyph in part.glyphs}


def test_boxes_lie_in_the_scene_have_a_readable_size_and_hardly_overlap():
    scenes = digit_scenes(train=150, valid=0)["train"]
    boxes = torch.cat([scene.labels.boxes for scene in scenes])
    corners = box_convert(boxes, "cxcywh", "xyxy")
    assert corners.min() >= 0
    assert corners.max() <= 1
    heights = boxes[:, 3] * 96
    assert heights.min() >= 12
    assert heights.max() <= 60
    assert heights.std() > 5
    for scene in scenes:
        overlaps = box_iou(*[box_convert(scene.labels.boxes, "cxcywh", "xyxy")] * 2).fill_diagonal_(0)
        assert len(scene.labels) <= 6
        assert (overlaps <= 0.13).all()
    assert len(set(torch.cat([scene.labels.classes for scene in scenes]).tolist())) == 10


def test_a_box_is_tight_around_its_digit():
    generator = np.random.default_rng(0)
    for glyph in _digits()[0].glyphs[:50]:
        ink = _glyph(glyph, 96, generator)
        for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert edge.max() > 0.3


def test_the_set_passes_its_own_check():
    report = check_labels(digit_scenes(train=60, valid=20))
    assert report.warnings == ()
    assert min(report.boxes.values()) > 5


def test_scenes_too_small_to_read_are_refused():
    with pytest.raises(RequestError, match="scenes of 32 pixels"):
        digit_scenes(train=1, valid=0, size=32)
