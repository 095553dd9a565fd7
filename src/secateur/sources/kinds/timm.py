"""Models of timm without weights: "timm:vit_tiny_patch16_224"."""

from typing import Any

from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources


@sources("timm")
def timm(name: str, arguments: Arguments) -> Built:
    """Build a model of timm; nothing is downloaded."""
    package = require_package("timm", "timm")
    model = call_factory(
        lambda **given: package.create_model(name, pretrained=False, **given), f"timm:{name}", arguments
    )
    settings: Any = model.default_cfg
    return Built(model, (1, *settings["input_size"]))
