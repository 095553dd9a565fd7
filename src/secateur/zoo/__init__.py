"""Architectures that secateur brings along, one module each: `models["vgg19"](num_classes=100)`."""

from collections.abc import Callable

from torch import nn

from secateur.registry import Registry

__all__ = ["initialise", "models"]

models: Registry[Callable[..., nn.Module]] = Registry("zoo model", "secateur.zoo")


def initialise(model: nn.Module, gamma: float) -> None:
    """Draw the convolutions after Kaiming He (fan out), and set every batch-norm scale.

    Args:
        model: Changed in place; other layers keep what they have.
        gamma: The scale; network slimming starts at 0.5.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, gamma)
            nn.init.zeros_(module.bias)
