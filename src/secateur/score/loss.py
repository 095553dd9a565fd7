"""Losses: what gradient criteria differentiate.

With labels: the cross-entropy for class indices, the mean squared error for real targets of the output's
shape. Without labels: half the mean square of the outputs, so that a channel counts as far as it moves what
the model says. Or whatever the user passes, `loss(output, target)`, a mean over the samples of a batch.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from secateur.capture.inputs import output_tensors
from secateur.errors import RequestError

Loss: TypeAlias = Callable[[Any, Any], Tensor]


def default_loss(output: Any, target: Any) -> Tensor:
    """The loss where the user names none, of the first tensor that the model returns.

    Args:
        output: What the model returned.
        target: Class indices, real values, or None for no labels.

    Raises:
        RequestError: The target does not fit the output.

    Example:
        >>> import torch
        >>> float(default_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])))
        0.6931471824645996
        >>> float(default_loss(torch.tensor([[3.0, 1.0]]), None))
        2.5
    """
    found = [tensor for tensor in output_tensors(output) if tensor.is_floating_point()]
    if not found:
        raise RequestError("the model returns no real number to take a loss of", do="pass loss=")
    first = found[0]
    if target is None:
        return 0.5 * first.square().mean()
    if isinstance(target, Tensor) and target.is_floating_point() and target.shape == first.shape:
        return F.mse_loss(first, target)
    if isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex():
        if target.shape == first.shape[:-1]:
            return F.cross_entropy(first.flatten(0, -2), target.flatten().long())
        if first.ndim > 2 and target.shape == (first.shape[0], *first.shape[2:]):
            return F.cross_entropy(first, target.long())
    shape = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
    raise RequestError(
        f"labels of shape {shape} do not fit outputs of shape {list(first.shape)}",
        ["fitting: class indices, one for each row of outputs, or real values of the outputs' shape"],
        "pass criterion=secateur.criterion(..., loss=callable(output, target)), or batches without labels",
    )
