"""YOLOv3-tiny with the official COCO weights, read by the library's own Darknet domain."""

from pathlib import Path

from secateur.domains.darknet import Darknet, load_darknet

SIDE = 416
CLASSES = 80


def load_yolo(folder: Path) -> Darknet:
    """The model of a folder with `yolov3-tiny.cfg` and `yolov3-tiny.weights`, in eval mode."""
    return load_darknet(folder / "yolov3-tiny.cfg", folder / "yolov3-tiny.weights")
