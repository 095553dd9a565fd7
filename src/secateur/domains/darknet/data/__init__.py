"""Labelled images for detectors: read any format, letterbox, augment, batch."""

from secateur.domains.darknet.data.augment import Augmentation
from secateur.domains.darknet.data.boxes import Annotations, LabelledImage, Labels, check_labels
from secateur.domains.darknet.data.conversion import Conversion, convert
from secateur.domains.darknet.data.dataset import Batch, Loader, loader
from secateur.domains.darknet.data.digits import digit_scenes, make_digits
from secateur.domains.darknet.data.letterbox import Letterbox, multi_scale
from secateur.domains.darknet.data.readers import formats, read

__all__ = [
    "Annotations",
    "Augmentation",
    "Batch",
    "Conversion",
    "LabelledImage",
    "Labels",
    "Letterbox",
    "Loader",
    "check_labels",
    "convert",
    "digit_scenes",
    "formats",
    "loader",
    "make_digits",
    "multi_scale",
    "read",
]
