"""ResNet for small images: a 3x3 stem without pooling, stages of two-convolution blocks, one linear layer.

`resnet18` is the ImageNet network of four stages with a stem for 32x32; with three input channels and ten
classes it has 11,173,962 parameters. `resnet20` is the network of three stages that its authors trained on
CIFAR-10. Its shortcuts that change shape are 1x1 convolutions (option B of the paper): 272,474 parameters;
with the padded shortcuts of option A it would have 269,722.

References:
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 and table 1.
    https://arxiv.org/abs/1512.03385
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from secateur.zoo import initialise, models

# How many blocks each stage has, and the channels of the stages.
_STAGES = {
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet20": ((3, 3, 3), (16, 32, 64)),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input.

    Args:
        before: Channels that come in.
        channels: Channels of both convolutions.
        stride: Of the first convolution; where it or the channels change the shape, the input goes through a
            1x1 convolution with batch norm.
    """

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n channels height width"]:
        """Compute the block."""
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(branch + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet for small images: `conv1`, `bn1`, `layer1` ... (lists of `BasicBlock`), average, `classifier`.

    Args:
        depths: Number of blocks per stage; every stage but the first halves the map.
        channels: Channels per stage.
        width: Multiplies the channels of every layer; rounded, at least 1.
        in_channels: Channels of the images: 1 or 3.
        num_classes: Outputs of the classifier.
        image_size: Height and width of the images in pixels. The layers do not depend on it; the source of a
            saved model reads it to know its input.
        gamma: Initial batch-norm scale; network slimming starts at 0.5.

    Example:
        >>> resnet = models["resnet18"](width=0.25, in_channels=1, image_size=28)
        >>> resnet.conv1.out_channels, resnet.layer4[1].conv2.out_channels
        (16, 128)
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        channels: tuple[int, ...],
        *,
        width: float = 1.0,
        in_channels: int = 3,
        num_classes: int = 10,
        image_size: int = 32,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [max(1, round(count * width)) for count in channels]
        self.image_size = image_size
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        before = widths[0]
        self.stages: list[str] = []
        for stage, (depth, out) in enumerate(zip(depths, widths, strict=True)):
            strides = [1 if stage == 0 else 2, *[1] * (depth - 1)]
            blocks = [
                BasicBlock(before if at == 0 else out, out, stride) for at, stride in enumerate(strides)
            ]
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            before = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, num_classes)
        initialise(self, gamma)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Compute the logits of a batch of normalised images."""
        x = self.relu(self.bn1(self.conv1(images)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.classifier(self.pool(x).flatten(1))


def _register(name: str) -> Callable[..., nn.Module]:
    depths, channels = _STAGES[name]

    def build(**options: Any) -> ResNet:
        return ResNet(depths, channels, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""Build {name} ({2 * sum(depths)} convolutions in blocks); the options: see `ResNet`."""
    models.add(name, build)
    return build


resnet18 = _register("resnet18")
resnet20 = _register("resnet20")
