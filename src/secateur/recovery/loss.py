"""The label-free loss: how far a cut model's outputs are from those of the dense model.

error = |cut - dense| / |dense|, both norms over all outputs of a batch
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.batches import naming_batch
from secateur.capture.inputs import as_call, cast_type, map_inputs, output_tensors
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.shadow import shadow
from secateur.capture.switches import recording_context


def outputs_of(model: nn.Module, batch: Any, number: int = 0, state: Collection[str] = ()) -> list[Tensor]:
    """Run a copy of a model in eval mode.

    Args:
        model: Any module; not changed.
        batch: Its inputs; not changed.
        number: Which batch of the data it is, for messages.
        state: Names of what it returns for its next call only.

    Returns:
        The tensors of its output, state left out.

    Raises:
        CaptureError: The model does not run on the batch.
    """
    args, kwargs = as_call(map_inputs(batch, torch.clone))
    with naming_batch(number), outside_kept(model), recording_context(), OwnNumbers():
        return output_tensors(shadow(model).eval()(*args, **kwargs), state)


def output_error(dense: Sequence[Tensor], cut: Sequence[Tensor]) -> float:
    """The relative error of outputs.

    Args:
        dense: The outputs of the dense model.
        cut: The outputs of the cut model. One of another shape (channels of the inside that are put out, a
            number of boxes) has nothing to be compared with and is passed over.

    Returns:
        |cut - dense| / |dense|; infinite where something is compared with nothing but zeros, NaN where no
        output can be compared.

    Example:
        >>> output_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
        0.1
    """
    wrong, size, compared = 0.0, 0.0, False
    for one, two in zip(dense, cut, strict=False):
        if one.shape == two.shape and (one.is_floating_point() or one.is_complex()):
            compared = True
            first, second = (tensor.to(cast_type(tensor, torch.float64)) for tensor in (one, two))
            wrong += float((second - first).abs().square().sum())
            size += float(first.abs().square().sum())
    if not compared:
        return float("nan")
    if wrong == 0:
        return 0.0
    return (wrong / size) ** 0.5 if size > 0 else float("inf")
