"""Networks of Ultralytics: "ultralytics:yolo11n.yaml", with random weights, "ultralytics:path/best.pt"."""

from typing import Any

from secateur.domains.ultralytics.opening import open_network
from secateur.sources.registry import Arguments, Built, call_factory, sources

_SIDE = 640
_SIDE_OF_CLASSIFIERS = 224


@sources("ultralytics")
def ultralytics(name: str, arguments: Arguments) -> Built:
    """Open a network of Ultralytics; nothing is downloaded, and no pickle runs code.

    Arguments: `imgsz`, the side of its images, and `task`, what a YAML is for.
    """
    given = dict(arguments)
    side = given.pop("imgsz", None)
    model: Any = call_factory(lambda **more: open_network(name, **more), f"ultralytics:{name}", given)
    usual = _SIDE_OF_CLASSIFIERS if getattr(model, "task", "") == "classify" else _SIDE
    side = side or (getattr(model, "pt_path", None) and model.args.get("imgsz")) or usual
    return Built(model, (1, model.yaml.get("channels", 3), side, side))
