"""Images that do not exist: for trying a command out, and for tests.

Each of ten classes has one random 32x32 colour pattern; an image is its class's pattern half covered by
noise. Anything that learns at all gets them right within an epoch or two. Accuracy on them means nothing.
"""

from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from secateur.domains.classification.known import datasets
from secateur.domains.classification.splits import RawData

_CLASSES = 10


@datasets("fake")
def read_fake(data_dir: Path | None, download: bool) -> RawData:
    """Make up 1,000 training and 200 test images, always the same."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(_CLASSES, 3, 32, 32, generator=generator)

    def draw(count: int) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
        labels = torch.arange(count) % _CLASSES
        noise = torch.rand(count, 3, 32, 32, generator=generator)
        return ((patterns[labels] + noise) * 127.5).to(torch.uint8), labels

    (pixels, labels), (test_pixels, test_labels) = draw(1000), draw(200)
    names = tuple(f"fake {label}" for label in range(_CLASSES))
    return RawData(pixels, labels, test_pixels, test_labels, names, flip=False)
