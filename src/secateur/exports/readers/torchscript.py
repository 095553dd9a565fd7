"""Opens a TorchScript file with PyTorch."""

from typing import Any


def load(path: str) -> tuple[str, Any]:
    """Open the file; what runs it takes the model's arguments, and passes their tensors on."""
    import torch
    from torch.utils import _pytree as pytree

    try:
        opened = torch.jit.load(path, map_location="cpu")
    except Exception:  # noqa: BLE001 - of what is unknown to it, torch raises several kinds
        import torchvision  # noqa: F401 - brings operators that detectors use

        opened = torch.jit.load(path, map_location="cpu")

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        return opened(*(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)))

    return f"TorchScript of torch {torch.__version__}", run
