"""Where a training from scratch begins: heads that expect to see nothing.

Of a thousand predictions a few are asked for. A head that starts at objectness 1/2 spends its first hundreds
of steps on learning that, and the gradients of everything else are lost beside it. With the bias

    b = -log((1 - p) / p)

it starts at the share p.

References:
    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1. https://arxiv.org/abs/1708.02002
"""

import math

import torch

from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional

__all__ = ["PRIOR", "expect_nothing"]

PRIOR = 0.01
"""The objectness that untrained heads start at."""


def expect_nothing(model: Darknet, prior: float = PRIOR) -> None:
    """Set the objectness biases of the heads, in place; a head whose layer has no bias is left as it is.

    Args:
        model: A network whose heads are not trained yet.
        prior: Objectness to start at, above 0 and below 1.

    Example:
        >>> from secateur.domains.darknet import decode
        >>> model = Darknet("digits").eval()
        >>> expect_nothing(model)
        >>> found = decode(model(torch.zeros(1, 3, 64, 64)), model.heads, (64, 64))
        >>> round(found.objectness.mean().item(), 3)
        0.01
    """
    for head in model.heads:
        layer = model.layers[head.index - 1]
        if isinstance(layer, Convolutional) and layer.conv.bias is not None:
            with torch.no_grad():
                layer.conv.bias.view(len(head.anchors), -1)[:, 4] = -math.log((1 - prior) / prior)
