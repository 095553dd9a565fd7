"""Models on the meta device, where tensors have shapes and no values: enough to record, couple and plan."""

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.capture.inputs import map_inputs
from secateur.capture.shadow import shadow
from secateur.errors import RequestError


def is_on_meta(model: nn.Module) -> bool:
    """Whether some parameter has no value."""
    return any(parameter.is_meta for parameter in model.parameters())


def placed(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, Any]:
    """Bring a model on the meta device and its inputs together there.

    Args:
        model: Any module; not changed.
        example_inputs: As for `capture`.

    Returns:
        If some parameter is on the meta device: a copy whose buffers are there, too (loaders often leave them
        on the CPU), and the inputs there. Else both as they are.

    Example:
        >>> import torch
        >>> model, x = placed(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2))
        >>> x.device
        device(type='meta')
    """
    if not is_on_meta(model):
        return model, example_inputs
    copy = shadow(model)
    moved: dict[int, Tensor] = {}
    for module in copy.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved.setdefault(id(buffer), buffer.to("meta"))
    return copy, map_inputs(example_inputs, lambda leaf: leaf.to("meta"))


def require_values(model: nn.Module) -> None:
    """Refuse to prove numbers of a model that has none, or none that are finite.

    Raises:
        RequestError: Some tensor is on the meta device or waits for a first run, or some parameter holds NaN
            or infinity.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise RequestError(
            f"{len(empty)} tensors of {type(model).__name__} are on the meta device and have no values, "
            "but check=True proves numbers",
            empty[:3],
            "plan with secateur.plan and cut with secateur.stream, or pass check=False",
        )
    waiting = [name for name, held in named if is_lazy(held)]
    if waiting:
        raise RequestError(
            f"{len(waiting)} tensors of {type(model).__name__} have no shape yet",
            waiting[:3],
            "run the model once on an input: that makes the parameters of lazy modules",
        )
    wide = [(name, held) for name, held in model.named_parameters() if held.dtype.itemsize > 1]
    wrong = [name for name, held in wide if not _is_finite(held)]  # no float8 is asked
    if wrong:
        raise RequestError(
            f"parameters of {type(model).__name__} hold NaN or infinity, but check=True proves numbers",
            [f"the first of {len(wrong)}: {wrong[0]}"],
            "mend the weights, or pass check=False",
        )


def _is_finite(held: Tensor) -> bool:
    """Whether all numbers are: of a finite sum they are; a sum may overflow without them."""
    return bool(held.detach().sum().isfinite()) or bool(held.isfinite().all())
