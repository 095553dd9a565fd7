import pytest
import torch
from torch import nn

from secateur.domains.classification.images import Splits
from secateur.domains.classification.splits import RawData, split
from secateur.zoo import models


class Narrow(nn.Module):
    """A network that has what makes repetition hard: batch norm, dropout, momentum, a channels-last copy."""

    def __init__(self, outputs=4):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 8, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, outputs)

    def forward(self, images):
        hidden = torch.relu(self.norm(self.conv(images)))
        return self.head(self.dropout(torch.relu(self.deep(hidden)).mean((2, 3))))


def make_splits(n=150, seed=0) -> Splits:
    """Four classes of 6x6 images that are easy to tell apart: a bright quarter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    pixels = torch.randint(0, 100, (n, 1, 6, 6), generator=generator)
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(label.item(), 2)
        image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 150
    pixels = pixels.to(torch.uint8)
    raw = RawData(pixels, labels, pixels[:40], labels[:40], tuple("abcd"), flip=False, validation=0.2)
    return split("quarters", raw)


@pytest.fixture
def splits():
    return make_splits()


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    return Narrow()


@pytest.fixture
def tiny_vgg():
    torch.manual_seed(0)
    return models["vgg11"](width=1 / 16, in_channels=1, num_classes=4, image_size=6, gamma=0.5)


@pytest.fixture
def make_narrow():
    return Narrow


@pytest.fixture
def equal_weights():
    def compare(one, other):
        first, second = one.state_dict(), other.state_dict()
        return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)

    return compare
