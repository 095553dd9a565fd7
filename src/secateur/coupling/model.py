"""Couple a model: what `secateur.couple` does, without what only cutting, proving and recovering need."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from secateur.capture.outside import outside_held
from secateur.capture.state import returned
from secateur.capture.switches import garbage_waits
from secateur.capture.unwrap import unwrap
from secateur.coupling.groups import Groups
from secateur.coupling.protect import Protected, protected_names
from secateur.coupling.recorded import Recorded


def couple(
    model: nn.Module,
    example_inputs: Any,
    protect: Protected | Sequence[Protected] = (),
    axes: str = "heads",
    state: Collection[str] | None = None,
    outputs: Collection[str | int] | None = None,
) -> Groups:
    """Find which channels belong together.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        protect: What must keep its shapes: patterns of module or parameter names, modules or parameters.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        state: Names of what the model returns only to be given back at its next call, such as a cache: keys
            of a dict, fields of a dataclass, positions in a tuple. All else that it returns keeps its shape.
            None finds them: a container under the name of an optional parameter of `forward`, which a second
            call reads, of the model itself or of one inside that hands it on.
        outputs: What counts of what the model returns: keys of a dict, fields of a dataclass, positions. The
            widths of all else may change. None: all that is no state counts.

    Returns:
        The groups; printing them shows group, size, members, and what is protected and why.

    Raises:
        CaptureError: The model cannot be run on these inputs.
        RequestError: A pattern fits nothing, or an output is named that the model does not return.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        >>> [(group.name, group.size, group.reason) for group in couple(model, torch.zeros(1, 3, 8, 8))]
        [('0', 8, None), ('0#2', 3, 'model input'), ('2', 4, 'model output')]
    """
    inner = unwrap(model)
    with garbage_waits(), outside_held():
        recorded = Recorded.of(inner, example_inputs, state=returned(state, outputs))
        return recorded.couple(protected_names(inner, protect), axes=axes)
