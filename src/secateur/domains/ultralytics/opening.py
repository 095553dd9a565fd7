"""Opening networks of Ultralytics so that no file runs code and nothing is downloaded.

A `.pt` of Ultralytics is a pickle of a whole module, and a YAML may name any function and an expression to
evaluate. Ultralytics has a restricted mode against both: it makes the classes of torch and its own alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from secateur.errors import CheckpointError, RequestError
from secateur.extras import extra


@contextmanager
def restricted() -> Iterator[None]:
    """Let Ultralytics make known classes alone, whatever a file says.

    Raises:
        MissingExtraError: Ultralytics is not installed.
        RequestError: It is too old to have that mode.
    """
    with extra("ultralytics", "networks of Ultralytics"):
        from ultralytics.nn import tasks
    if not hasattr(tasks, "SAFE_LOAD"):
        raise RequestError(
            "this version of ultralytics has no restricted mode: its files could run code",
            do="pip install -U ultralytics, or pass what YOLO(...) opened to secateur in Python",
        )
    allowed = get_safe_globals()
    try:
        with patch.object(tasks, "SAFE_LOAD", True):
            yield
    finally:  # what it allows would be allowed in files of others, too
        clear_safe_globals()
        add_safe_globals(allowed)


def open_network(name: str, task: str | None = None) -> Any:
    """Open a network of Ultralytics: a `.pt` file, or a YAML of Ultralytics' own or of the user's.

    Args:
        name: The file; "yolo11n.yaml" is yolo11.yaml of Ultralytics at scale n, with random weights.
        task: What a YAML is for: "detect", "segment", "pose", "obb", "classify"; None for what its head says.

    Returns:
        The module inside of `YOLO(name)`, in eval mode.

    Raises:
        MissingExtraError: Ultralytics is not installed.
        RequestError: There is no such file, or it would be downloaded.
        CheckpointError: It is damaged, or asks for more than layers of Ultralytics and torch.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in (".pt", ".yaml", ".yml") or "://" in name:
        raise RequestError(f"'{name}' is no network of Ultralytics", do="name a .pt or a .yaml file")
    if suffix == ".pt" and not Path(name).is_file():
        raise RequestError(
            f"there is no file {name}",
            ["Ultralytics would look for it in the net; secateur downloads nothing"],
            f"fetch it once with ultralytics.YOLO('{Path(name).name}')",
        )
    with restricted():
        try:
            return _of_pt(name) if suffix == ".pt" else _of_yaml(name, task)
        except FileNotFoundError as error:
            raise RequestError(f"there is no file {name}", do="see ultralytics/cfg/models") from error
        except RequestError:
            raise
        except Exception as error:  # whatever a damaged or foreign file makes of it
            raise CheckpointError(
                f"cannot open {name}: {type(error).__name__}: {str(error).splitlines()[0]}",
                ["only classes of ultralytics and torch are made of a file, and nothing in it is run"],
                "if you trust it, open it yourself: secateur.prune(ultralytics.YOLO(...), ...)",
            ) from error


def _of_pt(name: str) -> Any:
    from ultralytics import YOLO

    network: Any = YOLO(name).model
    return network.eval()


def _of_yaml(name: str, task: str | None) -> Any:
    from ultralytics import RTDETR, YOLO
    from ultralytics.nn.tasks import yaml_model_load

    layers = yaml_model_load(name)
    for _, _, kind, arguments in (*layers["backbone"], *layers["head"]):
        if kind == "TorchVision" and len(arguments) > 2 and arguments[2] not in (None, "None"):
            raise RequestError(
                f"{name} would download weights of {arguments[1]}",
                do="write None for them in a YAML of your own",
            )
    is_rtdetr = layers["head"][-1][2] == "RTDETRDecoder"
    network: Any = (RTDETR(name) if is_rtdetr else YOLO(name, task=task)).model
    return network.eval()
