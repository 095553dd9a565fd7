"""Data sets, one module per source: each entry reads `(data_dir, download)` into a `RawData`."""

from collections.abc import Callable
from pathlib import Path

from secateur.domains.classification.splits import RawData
from secateur.registry import Registry

__all__ = ["Reader", "datasets"]

Reader = Callable[[Path | None, bool], RawData]

datasets: Registry[Reader] = Registry("data set", "secateur.domains.classification.known")
