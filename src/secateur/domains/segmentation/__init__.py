"""Semantic segmentation: a class for every pixel, from images with masks; mean IoU decides."""

from secateur.domains.segmentation.folders import MaskedImages, open_folder
from secateur.domains.segmentation.task import Segmentation

__all__ = ["MaskedImages", "Segmentation", "open_folder"]
