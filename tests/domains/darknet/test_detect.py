"""Detection: pictures from every source, boxes in their pixels, drawings, JSON, videos."""

import builtins
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from secateur.domains.darknet import Darknet, parse_cfg
from secateur.domains.darknet.detect import Gallery, Thresholds, detect, detect_picture, save_json
from secateur.domains.darknet.draw import draw, side_by_side, to_pixels
from secateur.domains.darknet.evaluate import Detections
from secateur.domains.darknet.streams import is_moving, pictures
from secateur.errors import BrokenImageWarning, DataError, RequestError

CFG = """[net]
width=64
height=64
channels=3
[convolutional]
filters=7
size=8
stride=8
pad=0
activation=linear
[yolo]
mask=0
anchors=16,16
num=1
classes=2
"""


@pytest.fixture
def finder():
    """Sees a bright cell of 8 x 8 pixels as class 1, a box of 16 x 16 pixels in its middle."""
    model = Darknet(parse_cfg(CFG, "finder.cfg"))
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.copy_(torch.tensor([0.0, 0, 0, 0, -10, -10, 10]))
        conv.weight[4] = 20 / (3 * 64)
    return model


def spot(path=None, size=(64, 64), box=(24, 40, 31, 47)):
    picture = Image.new("RGB", size)
    ImageDraw.Draw(picture).rectangle(box, fill="white")
    if path is not None:
        picture.save(path)
    return picture


def test_a_bright_cell_is_found_where_it_is(finder, tmp_path):
    spot(tmp_path / "spot.png")
    (found,) = detect(finder.train(), str(tmp_path / "spot.png"), ["dark", "bright"])
    torch.testing.assert_close(found.found.boxes, torch.tensor([[20.0, 36.0, 36.0, 52.0]]))
    assert found.found.classes.tolist() == [1]
    assert finder.training
    assert str(found) == "spot.png: bright 1.00"
    numbers = found.numbers()
    assert (numbers["width"], numbers["height"]) == (64, 64)
    assert numbers["detections"][0]["name"] == "bright"


def test_boxes_are_in_the_pixels_of_a_letterboxed_picture(finder):
    picture = spot(size=(256, 128), box=(96, 32, 127, 63))  # a quarter the size, 16 grey rows above
    found = detect_picture(finder, to_pixels(picture), Thresholds(conf=0.9))
    torch.testing.assert_close(found.boxes, torch.tensor([[80.0, 16.0, 144.0, 80.0]]), atol=0.5, rtol=0)


def test_thresholds_decide_what_counts(finder):
    grey = to_pixels(spot()).float().mul(0.52).byte()
    assert len(detect_picture(finder, grey, Thresholds(conf=0.25))) == 1
    assert len(detect_picture(finder, grey, Thresholds(conf=0.9))) == 0


def test_a_folder_is_read_in_order_and_broken_images_are_left_out(finder, tmp_path):
    for name in ("b.png", "a.jpg"):
        spot(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.warns(BrokenImageWarning, match=r"c\.png.*1 of 3"):
        found = list(detect(finder, str(tmp_path), ["dark", "bright"]))
    assert [each.picture.name for each in found] == ["a.jpg", "b.png"]
    with Gallery(tmp_path / "drawn") as gallery:
        for each in found:
            gallery.add(each)
    assert [path.name for path in gallery.written] == ["a.png", "b.png"]
    assert json.loads(save_json([each.numbers() for each in found], tmp_path / "all.json").read_text())


def test_drawn_boxes_stand_where_they_were_found(finder):
    pixels = to_pixels(spot())
    found = detect_picture(finder, pixels)
    drawn = np.array(draw(pixels, found, ["dark", "bright"], least=256)).astype(int)
    assert drawn.shape == (256, 256, 3)
    changed = np.abs(drawn - np.kron(np.array(spot()).astype(int), np.ones((4, 4, 1), int))).sum(-1) > 0
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.max()) == (80, 208)
    assert changed[144:208, 80].all()
    assert not changed[160:200, 90:140].any()


def test_pictures_stand_side_by_side():
    tile = Image.new("RGB", (10, 8), "red")
    grid = np.array(side_by_side([[tile, tile], [tile, tile]], ["one", "two"]))
    assert (grid == [255, 0, 0]).all(-1).sum() == 4 * 80


def test_a_video_is_read_and_a_drawn_one_written(finder, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="videos need OpenCV")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 64))
    for column in (0, 16, 32):
        writer.write(np.array(spot(box=(column, 40, column + 7, 47)))[..., ::-1].copy())
    writer.release()
    found = list(detect(finder, str(path), ["dark", "bright"], limit=2))
    assert [each.picture.frame for each in found] == [0, 1]
    lefts = [each.found.boxes[0, 0].item() for each in found]
    assert lefts[1] - lefts[0] == pytest.approx(12, abs=1)  # the first is clipped at the border
    with Gallery(tmp_path / "drawn") as gallery:
        for each in found:
            gallery.add(each)
    (written,) = gallery.written
    assert len(list(pictures(str(written)))) == 2


def test_without_opencv_a_video_is_refused_and_an_image_is_not(finder, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(RequestError, match="needs OpenCV, which is not installed"):
        list(pictures("0"))
    spot(tmp_path / "spot.png")
    assert len(list(detect(finder, str(tmp_path / "spot.png"), ["dark", "bright"]))) == 1


def test_sources_that_do_not_fit_are_refused(finder, tmp_path):
    with pytest.raises(RequestError, match="there is no"):
        list(pictures(str(tmp_path / "absent.png")))
    with pytest.raises(RequestError, match="holds no image"):
        list(pictures(str(tmp_path)))
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(DataError, match="cannot read the image"):
        list(pictures(str(tmp_path / "bad.png")))
    with pytest.warns(BrokenImageWarning), pytest.raises(DataError, match="none of the 1 images"):
        list(pictures(str(tmp_path)))
    with pytest.raises(RequestError, match="3 names, the network has 2 classes"):
        list(detect(finder, "x.png", ["a", "b", "c"]))
    pytest.importorskip("cv2")
    with pytest.raises(RequestError, match=r"there is no .*absent\.mp4"):
        list(pictures(str(tmp_path / "absent.mp4")))


def test_what_moves_is_told_by_its_name():
    assert is_moving("rtsp://camera/1")
    assert not is_moving("photos")


def test_nothing_found_draws_nothing():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    pixels = to_pixels(spot())
    assert torch.equal(to_pixels(draw(pixels, empty, ["a"], least=1)), pixels)
