"""Splitting: which dims of which inputs hold the samples of a batch.

Nothing in a tensor says so: a mask of (tokens, tokens) may be as long as the batch, a recurrence may hold its
samples in the second dim. So a guess is tried: the last sample alone must give the last row of the outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.capture.batches import nan_in
from secateur.capture.inputs import output_tensors
from secateur.errors import CaptureError, RequestError

_TRIED = 64
"""Guesses that are tried at most."""


@dataclass(frozen=True)
class Split:
    """How batches fall into samples.

    Attributes:
        dims: For each leaf of the inputs the dim that holds the samples; None for what all samples share.
    """

    dims: tuple[int | None, ...]

    @property
    def is_known(self) -> bool:
        """False where all batches so far held one sample."""
        return any(dim is not None for dim in self.dims)

    def parts(self, inputs: Any, target: Any) -> tuple[list[Any], dict[int, int], Any]:
        """The leaves of inputs and target, the samples' dim in those that hold some, and their tree."""
        leaves, spec = pytree.tree_flatten((inputs, target))
        held = {at: dim for at, dim in enumerate(self.dims) if dim is not None}
        for at in range(len(self.dims), len(leaves)) if held else ():
            if isinstance(leaves[at], Tensor) and leaves[at].ndim:
                held[at] = 0
        return leaves, held, spec

    def size(self, inputs: Any) -> int:
        """How many samples a batch holds."""
        leaves = zip(pytree.tree_leaves(inputs), self.dims, strict=True)
        return next((leaf.shape[dim] for leaf, dim in leaves if dim is not None), 1)


def find_split(run: Callable[[Any], Any], inputs: Any, target: Any, number: int) -> Split:
    """Find how a batch falls into samples.

    Args:
        run: From inputs to the model's output.
        inputs: Of one batch.
        target: Its labels, samples in their first dim; None for none.
        number: The batch's place in the data, for the error.

    Returns:
        The first guess under which the last sample alone gives the last row of the outputs. A batch of one
        sample is left whole.

    Raises:
        RequestError: No guess holds.
        CaptureError: The outputs are not finite.

    Example:
        >>> import torch
        >>> x, mask = torch.randn(3, 3, 4), torch.ones(3, 3).tril()
        >>> find_split(lambda inputs: inputs[1] @ inputs[0], (x, mask), None, 0).dims
        (0, None)
    """
    whole = _first_output(run(inputs))
    if not bool(whole.isfinite().all()):
        raise CaptureError(
            f"the model returns NaN or infinity on batch {number} of the data{nan_in(inputs)}",
            do="mend weights or data; a criterion of activations such as apoz names the layer",
        )
    size = len(whole)
    leaves, spec = pytree.tree_flatten(inputs)
    labels = [leaf for leaf in pytree.tree_leaves(target) if isinstance(leaf, Tensor) and leaf.ndim]
    if size == 1 or any(len(leaf) == 1 for leaf in labels):
        return Split((None,) * len(leaves))
    if all(len(leaf) == size for leaf in labels):
        for dims in islice(product(*(_dims(leaf, size) for leaf in leaves)), _TRIED):
            if any(dim is not None for dim in dims):
                last = pytree.tree_unflatten(_at(leaves, dims, size - 1), spec)
                if _is_row(run, last, whole[-1:]):
                    return Split(dims)
    raise RequestError(
        f"batch {number} of the data does not fall into samples: no sample alone gives a row of the outputs, "
        f"{list(whole.shape)}",
        ["the criterion takes gradients of single samples; the model mixes those of a batch, or draws"],
        "pass batches of one sample, or choose taylor or hessian, which take whole batches",
    )


def _first_output(output: Any) -> Tensor:
    found = [held for held in output_tensors(output) if held.is_floating_point() or held.is_complex()]
    if not found:
        raise RequestError("the model returns no real number to take a loss of", do="pass loss=")
    return found[0].detach() if found[0].ndim else found[0].detach()[None]


def _dims(leaf: Any, size: int) -> list[int | None]:
    if not isinstance(leaf, Tensor):
        return [None]
    return [*(dim for dim, length in enumerate(leaf.shape) if length == size), None]


def _at(leaves: Sequence[Any], dims: Sequence[int | None], place: int) -> Iterator[Any]:
    for leaf, dim in zip(leaves, dims, strict=True):
        yield leaf if dim is None else leaf.narrow(dim, place, 1)


def _is_row(run: Callable[[Any], Any], inputs: Any, row: Tensor) -> bool:
    try:
        found = _first_output(run(inputs))
    except Exception:  # noqa: BLE001 - a wrong guess may do anything to a foreign model
        return False
    near = 5e-2 if row.dtype.itemsize < 4 else 1e-4
    return found.shape == row.shape and bool((found - row).abs().max() <= near * row.abs().max())
