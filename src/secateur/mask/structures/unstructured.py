"""Every entry by itself."""

from torch import Tensor

from secateur.mask.structure import Structure, Units, structures


class Unstructured(Structure):
    """Every entry by itself.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
        >>> units = Unstructured().units("w", scores, torch.ones(2, 2))
        >>> Unstructured().spread(units.lowest(2), (2, 2)).int().tolist()
        [[1, 0], [0, 1]]
    """

    def units(self, name: str, scores: Tensor, mask: Tensor) -> Units:
        """One unit for each entry, row-major."""
        return Units(name, scores.reshape(-1), mask.reshape(-1) != 0, 1, tuple(scores.shape))

    def spread(self, keep: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The same, in the tensor's shape."""
        return keep.view(shape)


structures.add("unstructured", lambda match, dim: Unstructured())
