"""A small detector of Ultralytics with every kind of block that matters."""

import logging

import pytest
import torch
from ultralytics_scenes import write_scenes

import secateur as sc

pytest.importorskip("ultralytics")

SIDE = 64

TINY = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C3k2, [16, False]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C2f, [32, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, C2PSA, [128]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C3k2, [32, False]]
  - [[9, 6], 1, Detect, [nc]]
"""


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("ultralytics").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The YAML of the detector."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def image():
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def cut(tiny, image):
    """The detector pruned so that a `.pt` can hold it."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    return sc.prune(YOLO(tiny).model, image, ratio=0.4, corrections=False, check=False)


@pytest.fixture(scope="session")
def half(cut, tmp_path_factory):
    """Its file."""
    return sc.export(cut, tmp_path_factory.mktemp("half") / "half.pt", format="ultralytics").path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Images of two classes, with boxes."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), "detect", side=SIDE)


@pytest.fixture
def training(data, tmp_path):
    """What every training of a test is told."""
    return {
        "data": str(data),
        "imgsz": SIDE,
        "batch": 4,
        "device": "cpu",
        "workers": 0,
        "project": str(tmp_path / "runs"),
        "plots": False,
        "verbose": False,
    }
