"""Models of transformers from a folder with a config.json: "hf:path/to/folder"."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from secateur.errors import RequestError
from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources

_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENS = 16
"""Length of the example of a model that reads tokens."""


@sources("hf")
def hf(folder: str, arguments: Arguments) -> Built:
    """Build the class that the configuration names, with the folder's weights if it has any.

    Weights are read from safetensors alone, nothing is downloaded; `weights=false` only builds the class.
    """
    package = require_package("transformers", "transformers")
    if not Path(folder, "config.json").is_file():
        raise RequestError(f"{folder} holds no config.json", do="pass a folder with a model's config.json")
    config = package.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    given = dict(arguments)
    wanted = given.pop("weights", True)
    kind = _class_of(package, config)
    if wanted and any(Path(folder, name).is_file() for name in _SAFE):
        model = call_factory(
            lambda **more: kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **more),
            folder,
            given,
        )
    elif wanted and any(Path(folder, name).is_file() for name in _PICKLED):
        raise RequestError(
            f"{folder} holds its weights as a pickle only, which could run code",
            do="save it with save_pretrained (which writes model.safetensors), or pass --arg weights=false",
        )
    else:
        make = getattr(kind, "from_config", None) or kind._from_config
        model = call_factory(lambda **more: make(config, **more), folder, given)
    return Built(model.eval(), example_inputs=_example(model))


def _class_of(package: ModuleType, config: Any) -> Any:
    """The model class that a configuration names first, else the base model of its type."""
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    return getattr(package, named, None) or package.AutoModel


def _example(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """Inputs of the model's kind: tokens or an image; None for other kinds."""
    config: Any = model.config
    if getattr(model, "main_input_name", "") == "input_ids":
        vocabulary = getattr(config.get_text_config(), "vocab_size", 2)
        return {"input_ids": torch.arange(_TOKENS)[None] % vocabulary}
    if getattr(model, "main_input_name", "") == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.zeros(1, getattr(config, "num_channels", 3), height, width)}
    return None
