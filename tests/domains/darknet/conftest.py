import pytest
from darknet_nets import randomise

from secateur.domains.darknet import Darknet


@pytest.fixture
def tiny():
    return randomise(Darknet("yolov3-tiny"))
