"""Opens a cfg and its weights with OpenCV's importer: a reader of exports. Torch is not imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load(path: str, maps: Sequence[int]) -> tuple[str, Any]:
    """Open the files.

    Args:
        path: The cfg; the weights lie beside it.
        maps: Numbers of the layers whose outputs are the raw maps.
    """
    import cv2

    network = cv2.dnn.readNetFromDarknet(path, str(Path(path).with_suffix(".weights")))

    def run(images: Any) -> Any:
        network.setInput(images)
        return network.forward([f"conv_{number}" for number in maps])

    return f"OpenCV {cv2.__version__}", run
