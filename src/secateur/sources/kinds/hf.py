"""Models of transformers from a folder with a config.json: "hf:path/to/folder".

Such a folder may ask for code: of its own (`auto_map`), of a kernel on the Hub (`attn_implementation`), in a
pickle, or in an adapter that names another folder. None of it is run, whatever folder or arguments say.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from secateur.errors import RequestError
from secateur.sources.registry import Arguments, Built, call_factory, require_package, sources
from secateur.write.shards import INDEX, SINGLE, read_index

_CONFIG = "config.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTER = "adapter_config.json"
_TOKENS = 16
"""Length of the example of a model that reads tokens."""

_FIXED: dict[str, Any] = {
    "trust_remote_code": False,
    "local_files_only": True,
    "use_safetensors": True,
    "subfolder": "",
}
"""What transformers is told in any case: no code, no download, no pickle, no other folder."""

_ELSEWHERE = ("config", "gguf_file", "cache_dir", "adapter_kwargs", "use_kernels", "kernel_config")
"""Arguments that name other files, or code on the Hub."""


@sources("hf")
def hf(folder: str, arguments: Arguments) -> Built:
    """Build the class that the configuration names, with the folder's weights if it has any.

    Weights are read from safetensors alone, nothing is downloaded; `weights=false` only builds the class.

    Raises:
        RequestError: The folder holds no model; or it or the arguments ask for code or files from elsewhere.
        CheckpointError: The index of its weights is damaged, or names files of other folders.
    """
    package = require_package("transformers", "transformers")
    given = dict(arguments)
    wanted = given.pop("weights", True)
    _require_no_code(folder, given)
    config = _config_of(package, folder)
    kind = _class_of(package, config, folder)
    if wanted and any(Path(folder, name).is_file() for name in (SINGLE, INDEX)):
        for index in Path(folder).glob("*.safetensors.index.json"):
            read_index(index)  # transformers joins the names in it to the folder as they are
        model = call_factory(lambda **more: kind.from_pretrained(folder, **{**more, **_FIXED}), folder, given)
    elif wanted and any(Path(folder, name).is_file() for name in _PICKLED):
        raise RequestError(
            f"{folder} holds its weights as a pickle only, which could run code",
            do="save it with save_pretrained (which writes model.safetensors), or pass --arg weights=false",
        )
    else:
        bare = {name: value for name, value in given.items() if name not in _FIXED}
        model = call_factory(lambda **more: _bare(kind, config, more), folder, bare)
    return Built(model.eval(), example_inputs=_example(model))


def _require_no_code(folder: str, arguments: Arguments) -> None:
    """Refuse a folder, or arguments, that ask to run code or to load from elsewhere."""
    try:
        written = json.loads(Path(folder, _CONFIG).read_bytes())
    except OSError as error:
        do = "pass a folder with a model's config.json"
        raise RequestError(f"{folder} holds no {_CONFIG}: {error.strerror or error}", do=do) from error
    except ValueError as error:
        raise RequestError(f"{folder}/{_CONFIG} is no JSON: {error}", do="save the model again") from error
    asked = [
        name
        for name, value in arguments.items()
        if name in _ELSEWHERE or (name in _FIXED and value != _FIXED[name])
    ]
    found = [f"{name}={arguments[name]!r}" for name in asked]
    found += [f"{_ADAPTER}, which names another model"] * Path(folder, _ADAPTER).is_file()
    weights = written.get("transformers_weights", "") if isinstance(written, dict) else ""
    found += [f"weights in {weights}, another folder"] * ("/" in str(weights))
    found += [
        f"{key}={value!r}, a kernel from the Hub"
        for key, value in (*_leaves(arguments), *_leaves(written))
        if "_implementation" in key and ("/" in value or value.startswith("flash"))
    ]
    if found:
        raise RequestError(
            f"hf:{folder} is asked for {found[0]}",
            ["only classes of transformers itself are built, with weights from the folder's safetensors"],
            "remove that, or build the model in Python and pass it to secateur.prune",
        )


def _leaves(held: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts inside JSON, each with the keys that lead to it."""
    if isinstance(held, Mapping):
        for name, inner in held.items():
            yield from _leaves(inner, f"{key}.{name}".removeprefix("."))
    elif isinstance(held, str):
        yield key, held


def _config_of(package: ModuleType, folder: str) -> Any:
    """The configuration, by transformers' own classes alone."""
    try:
        return package.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"transformers cannot read {folder}/{_CONFIG}",
            [f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"],
            "name a model type that this transformers knows; code in the folder is not run",
        ) from error


def _bare(kind: Any, config: Any, arguments: Arguments) -> Any:
    """A model of random weights."""
    if hasattr(kind, "from_config"):
        return kind.from_config(config, trust_remote_code=False, **arguments)
    return kind._from_config(config, **arguments)


def _class_of(package: ModuleType, config: Any, folder: str) -> Any:
    """The model class that a configuration names first, else the base model of its type."""
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    kind = getattr(package, named, None)
    if isinstance(kind, type) and issubclass(kind, package.PreTrainedModel):
        return kind
    if named and (kind is not None or hasattr(config, "auto_map")):
        raise RequestError(
            f"{folder}/{_CONFIG} names '{named}', which is no model class of transformers",
            ["classes that a folder brings along are not run"],
            "build the model in Python and pass it to secateur.prune",
        )
    return package.AutoModel


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
