"""Architectures that secateur brings along, one module each: `models["vgg19"](num_classes=100)`."""

from collections.abc import Callable

from torch import nn

from secateur.registry import Registry

__all__ = ["models"]

models: Registry[Callable[..., nn.Module]] = Registry("zoo model", "secateur.zoo")
