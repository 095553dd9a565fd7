"""Models of timm without weights: "timm:vit_tiny_patch16_224"."""

from typing import Any

from secateur.errors import RequestError
from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources

_FILES = ("checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments that name files and places in the net, from which timm would load."""


@sources("timm")
def timm(name: str, arguments: Arguments) -> Built:
    """Build a model of timm by its name there; nothing is loaded or downloaded."""
    package = require_package("timm", "timm")
    asked = [name] if ":" in name or "/" in name else [one for one in _FILES if one in arguments]
    if asked:
        raise RequestError(
            f"timm:{name} would load {asked[0]}",
            ["only architectures are taken from timm, and nothing is downloaded"],
            "name a model of timm.list_models(), and load its weights in Python",
        )
    model = call_factory(
        lambda **given: package.create_model(name, pretrained=False, **given), f"timm:{name}", arguments
    )
    settings: Any = model.default_cfg
    return Built(model, (1, *settings["input_size"]))
