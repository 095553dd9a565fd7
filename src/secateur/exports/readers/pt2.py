"""Opens a program of `torch.export` with PyTorch."""

from typing import Any


def load(path: str) -> tuple[str, Any]:
    """Open the file; what runs it takes the model's arguments."""
    import torch

    try:
        opened = torch.export.load(path).module()
    except Exception:  # noqa: BLE001 - of what is unknown to it, torch raises several kinds
        import torchvision  # noqa: F401 - brings operators that detectors use

        opened = torch.export.load(path).module()
    return f"torch.export of torch {torch.__version__}", opened
