import pytest
import torch

from secateur.domains.classification import Images, load
from secateur.train import FitConfig, fit
from secateur.zoo import models


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="session")
def resnet(digits):
    """A small network that has learnt something, so that accuracies differ; read only."""
    torch.manual_seed(0)
    model = models["resnet20"](width=0.5, in_channels=1, image_size=8)
    config = FitConfig(epochs=2, batch_size=64, device="cpu", save=None)
    return fit(model, digits, config).model.eval()


@pytest.fixture(scope="session")
def images(digits):
    """Some of the test images; the last batch of 50 is a smaller one."""
    return Images(digits.spec, digits.test.pixels[:120], digits.test.labels[:120])
