"""Cut: slice a model's tensors and let the integers of its Python follow."""

from secateur.cut.attributes import attributes_of
from secateur.cut.corrections import Correction
from secateur.cut.follow import Followed, follow_integers, hold_scalars, predict
from secateur.cut.slicing import slice_model

__all__ = [
    "Correction",
    "Followed",
    "attributes_of",
    "follow_integers",
    "hold_scalars",
    "predict",
    "slice_model",
]
