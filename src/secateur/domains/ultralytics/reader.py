"""Opens a `.pt` with Ultralytics, as `YOLO(path)` does; imports no secateur."""

from collections.abc import Callable
from typing import Any

import ultralytics


def load(path: str) -> tuple[str, Callable[..., Any]]:
    """The program's name and version, and what runs the file."""
    model: Any = ultralytics.YOLO(path).model
    return f"ultralytics {ultralytics.__version__}", model.eval()
