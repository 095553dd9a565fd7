"""The VGG of network slimming: convolutions without bias, batch norm, one linear classifier.

Simonyan and Zisserman's configurations A, B, D and E, adapted to small images as Liu et al. did: each 3x3
convolution is followed by batch norm and ReLU, the last of the five poolings is an average over the remaining
map, and a single linear layer replaces the three of the original. With three input channels and ten classes
`vgg19` has 20,035,018 parameters and `vgg16` 14,724,042 (the paper's 20.04M); with the redundant biases of
the convolutions, which other collections keep, 20,040,522 and 14,728,266.

References:
    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
    table 1. https://arxiv.org/abs/1409.1556
    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section 4.2.
    https://arxiv.org/abs/1708.06519; models/vgg.py of https://github.com/Eric-mingjie/network-slimming
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from secateur.zoo import initialise, models

# How many convolutions each stage has; a 2x2 max pooling stands between two stages.
_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A VGG for small images: `feature` (conv, batch norm, ReLU, pooling), average, `classifier`.

    A max pooling that would make the map smaller than one pixel (the fourth, for 8x8) is left out. An
    `nn.Identity` takes its place, so that the names in the state dict do not depend on the image size.

    Args:
        depths: Number of convolutions per stage.
        width: Multiplies the channels of every layer; rounded, at least 1.
        in_channels: Channels of the images: 1 or 3.
        num_classes: Outputs of the classifier.
        image_size: Height and width of the images in pixels: 32, 28 and 8 are the sizes of the data sets.
        gamma: Initial batch-norm scale; network slimming starts at 0.5.
        bias: Give the convolutions a bias, although the batch norm that follows subtracts it again.

    Example:
        >>> vgg = models["vgg11"](width=0.25, in_channels=1, image_size=28)
        >>> vgg.feature[0].out_channels, vgg.classifier.in_features
        (16, 128)
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        width: float = 1.0,
        in_channels: int = 3,
        num_classes: int = 10,
        image_size: int = 32,
        gamma: float = 1.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size, channels = image_size, in_channels
        for stage, depth in enumerate(depths):
            if stage > 0:
                layers.append(nn.MaxPool2d(2) if size >= 2 else nn.Identity())
                size = max(size // 2, 1)
            for _ in range(depth):
                out = max(1, round(_CHANNELS[stage] * width))
                layers += [nn.Conv2d(channels, out, 3, padding=1, bias=bias), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
        self.feature = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self, gamma)
        nn.init.normal_(self.classifier.weight, std=0.01)  # as the authors of network slimming did
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Compute the logits of a batch of normalised images."""
        return self.classifier(self.pool(self.feature(images)).flatten(1))


def _register(name: str) -> Callable[..., nn.Module]:
    depths = _DEPTHS[name]

    def build(**options: Any) -> VGG:
        return VGG(depths, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""Build {name.upper()} ({sum(depths)} convolutions); the options are those of `VGG`."""
    models.add(name, build)
    return build


vgg11 = _register("vgg11")
vgg13 = _register("vgg13")
vgg16 = _register("vgg16")
vgg19 = _register("vgg19")
