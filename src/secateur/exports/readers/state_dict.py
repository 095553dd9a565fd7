"""Builds the uncut model and lets the folder's `rebuild.py` make the pruned one of it."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def load(
    path: str,
    model: Any = None,
    word: str = "",
    arguments: Mapping[str, Any] | None = None,
    places: Sequence[str] = (),
) -> tuple[str, Any]:
    """Build the model.

    Args:
        path: The folder.
        model: The uncut model; None builds it.
        word: What builds it: "torchvision:resnet18", "path/to/file.py:factory", ...
        arguments: Of what builds it.
        places: Where its modules are looked for.
    """
    import torch

    if model is None:
        sys.path += [place for place in places if place not in sys.path]
        model = _uncut(word, dict(arguments or {}))
    built = _run(Path(path, "rebuild.py")).rebuild(model.eval())
    return f"rebuild.py with torch {torch.__version__}", built


def _uncut(word: str, arguments: dict[str, Any]) -> Any:
    """Build the uncut model by its own library."""
    kind, _, name = word.rpartition(":")
    if kind.endswith(".py"):
        sys.path.insert(0, str(Path(kind).parent))
        return getattr(_run(Path(kind)), name)(**arguments)
    if kind == "torchvision":
        from torchvision.models import get_model

        return get_model(name, **{"weights": None, **arguments})
    if kind == "timm":
        import timm

        return timm.create_model(name, pretrained=False, **arguments)
    if kind == "zoo":  # these classes are secateur's own
        del sys.modules["secateur"]
        from secateur.zoo import models

        return models[name](**arguments)
    if kind == "hf":
        import transformers

        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        return getattr(transformers, config.architectures[0])._from_config(config, **arguments)
    raise ValueError(f"no reader builds {word}")


def _run(file: Path) -> Any:
    """Run a file as a module."""
    spec = importlib.util.spec_from_file_location(f"of_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing beside the file
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
