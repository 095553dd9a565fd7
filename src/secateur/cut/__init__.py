"""Cut: slice a model's tensors and let the integers of its Python follow."""

from secateur.cut.attributes import attributes_of
from secateur.cut.corrections import Correction
from secateur.cut.follow import INFERRING, Followed, follow_integers, joined, predict
from secateur.cut.slicing import slice_model
from secateur.cut.unread import follow_lists, follow_unread, stale_integers

__all__ = [
    "INFERRING",
    "Correction",
    "Followed",
    "attributes_of",
    "follow_integers",
    "follow_lists",
    "follow_unread",
    "joined",
    "predict",
    "slice_model",
    "stale_integers",
]
