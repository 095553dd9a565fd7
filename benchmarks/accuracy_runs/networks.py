"""The networks of the accuracy benchmark, trained once for each seed and cached."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

import secateur as sc
from secateur.domains.classification import Images, Splits
from secateur.train import FitConfig, fit
from secateur.zoo import models as zoo
from secateur.zoo.resnet import ResNet

RATES = {"vgg11": 0.05, "resnet20": 0.05, "resnet56": 0.05, "vit": 0.1}
"""Learning rates of the training from the start, by network."""

LONGER = {"vit": 3}
"""Networks that are trained for several times the epochs."""


class Transformer(nn.Module):
    """A vision transformer of 4 layers, 4 heads and width 64; grey images are repeated to three channels."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.inner = VisionTransformer(size, size // 4, 4, 4, 64, 128, num_classes=classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        return self.inner(x.expand(-1, 3, -1, -1))


def make(name: str, data: Splits) -> nn.Module:
    """A fresh network for a data set."""
    spec = data.spec
    if name == "vit":
        return Transformer(spec.image_size, spec.num_classes)
    build = partial(ResNet, (9, 9, 9), (16, 32, 64)) if name == "resnet56" else zoo[name]
    return build(
        width={"vgg11": 0.25, "resnet56": 0.5}.get(name, 1.0),
        in_channels=spec.in_channels,
        num_classes=spec.num_classes,
        image_size=spec.image_size,
    )


def limited(data: Splits, count: int) -> Splits:
    """The same data with so many training images, always the same ones; 0 keeps all."""
    return replace(data, train=some(data.train, count))


def some(images: Images, count: int) -> Images:
    """So many of the images, always the same ones; 0 keeps all."""
    if count == 0 or count >= len(images):
        return images
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return Images(images.spec, images.pixels[chosen], images.labels[chosen])


def trained(name: str, seed: int, data: Splits, epochs: int, cache: Path) -> nn.Module:
    """The trained network, from the cache if it is there."""
    epochs *= LONGER.get(name, 1)
    recipe = f"{len(data.train)}-{name}-{epochs}-epochs-rate-{RATES[name]:g}-seed-{seed}"
    folder = cache / f"{data.spec.name}-{recipe}"
    torch.manual_seed(seed)
    model = make(name, data)
    if (folder / "plan.json").exists():
        return sc.load(folder, model).eval()
    config = FitConfig(epochs, lr=RATES[name], schedule="cosine", seed=seed, threads=1, quiet=True)
    model = fit(model, data, config).model.eval()
    sc.save(model, folder)
    return model
