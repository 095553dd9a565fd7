"""Cut: slice a model's tensors and let the attributes of its modules follow."""

from secateur.cut.attributes import attributes_of
from secateur.cut.slicing import slice_model

__all__ = ["attributes_of", "slice_model"]
