"""The folder: config.json, safetensors, generation config and tokenizer, as transformers reads them.

Where a config says all widths, transformers reads the folder by itself, and so does every program that reads
such folders (vLLM, llama.cpp's converter). Else a few lines of code lie beside the weights (`remote`).
"""

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from secateur.domains.transformers.remote import (
    MODULE,
    code_of,
    differences,
    kind_of,
    opened_from_code,
    require_own_code,
    require_sayable,
)
from secateur.errors import ExportError
from secateur.extras import extra

_FILES = (
    "added_tokens.json",
    "audio_tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "feature_extractor_config.json",
    "image_processor_config.json",
    "merges.txt",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
)
"""What tokenizers and processors are made of."""


@dataclass(frozen=True)
class WrittenFolder:
    """A folder that was written.

    Attributes:
        kind: The class that reads it, by name.
        is_remote: It holds code, and is read with `trust_remote_code=True`.
        notes: What else to know.
    """

    kind: str
    is_remote: bool
    notes: tuple[str, ...] = ()


def write_folder(model: nn.Module, folder: Path) -> WrittenFolder:
    """Write a model of transformers, cut or not.

    Args:
        model: A copy; its config may change.
        folder: Made if missing.

    Returns:
        How it is to be read.

    Raises:
        ExportError: It is no model of transformers, or its cut can be told neither by its config nor by a few
            lines of code; with the request that would fit.
    """
    pretrained = require_pretrained(model)
    kind = kind_of(model).__name__
    _forget_quantisation(pretrained)
    shapes, values = differences(pretrained)
    notes = list(_tokenizer(pretrained, folder))
    opened = opened_from_code(pretrained)
    if not shapes and opened is None:
        pretrained.save_pretrained(folder)
        return WrittenFolder(kind, False, tuple(notes))
    code = _cut_further(pretrained, opened, shapes, values) if shapes or opened is None else _text_of(opened)
    autos = auto_classes(pretrained)
    pretrained.config.auto_map = dict.fromkeys(autos, f"{MODULE}.Cut{kind}")
    # Names as the model has them: transformers renames those of checkpoints for its own classes alone.
    pretrained.save_pretrained(folder, save_original_format=False)
    (folder / f"{MODULE}.py").write_text(code)
    _name_architecture(folder / "config.json", f"Cut{kind}")
    notes.append(
        f"no config of {kind} says these widths: open it with {autos[0]}.from_pretrained(folder, "
        f"trust_remote_code=True), which runs the lines of {MODULE}.py beside the weights; "
        "uniform=True gives a folder that needs no code"
    )
    return WrittenFolder(autos[0], True, tuple(notes))


def require_folder(model: nn.Module, uniform: bool) -> None:
    """Refuse a model that transformers could not open again however it is cut.

    Args:
        model: Uncut.
        uniform: It will be cut to one width; a folder can say others, too.

    Raises:
        ExportError: It is of no class of transformers, or not built from its config.
    """
    pretrained = require_pretrained(model)
    kind_of(pretrained)
    differences(pretrained)


def _cut_further(model: Any, opened: type | None, shapes: Any, values: Any) -> str:
    """Let the config of a model list its widths, beyond those that its code has already; the new code."""
    config = model.config = copy.copy(model.config)
    if opened is not None:
        require_own_code(model)
        for name in ("cut_shapes", "cut_values", "auto_map"):
            vars(config).pop(name, None)
        shapes, values = differences(model)
    require_sayable(model, shapes)
    config.cut_shapes, config.cut_values = shapes, values
    return code_of(model)


def _text_of(kind: type) -> str:
    return Path(sys.modules[kind.__module__].__file__ or "").read_text()


def require_pretrained(model: nn.Module) -> Any:
    """The model, if transformers can save it.

    Raises:
        ExportError: It is another model.
        MissingExtraError: transformers is not installed.
    """
    with extra("language", "folders of Hugging Face"):
        import transformers
    if not isinstance(model, transformers.PreTrainedModel):
        what = f"{type(model).__name__} is no model of transformers"
        raise ExportError(what, do="choose another format, or sc.save(result, folder)")
    return model


def _forget_quantisation(model: Any) -> None:
    """Of a model whose weights were quantised where they were read from, and are plain numbers since."""
    if all(held.is_floating_point() for held in model.parameters()):
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)


def auto_classes(model: Any) -> list[str]:
    """The auto classes that open the class of a model, those for a task first.

    Where none knows the class, code in a folder is opened by the most general one.
    """
    return list(_autos(kind_of(model).__name__, model.config.model_type)) or ["AutoModel"]


def _autos(kind: str, model_type: str) -> Iterator[str]:
    import transformers
    from transformers.models.auto import modeling_auto

    tables = vars(modeling_auto)
    for table, mapping in sorted(tables.items(), key=lambda item: item[0] == "MODEL_MAPPING_NAMES"):
        named = mapping.get(model_type) if table.endswith("MAPPING_NAMES") else None
        if named is not None and kind in ((named,) if isinstance(named, str) else named):
            yield from _autos_of(transformers, tables[table.removesuffix("_NAMES")])


def _autos_of(package: Any, mapping: Any) -> Iterator[str]:
    from transformers.models.auto import modeling_auto

    for name, held in vars(modeling_auto).items():
        if name.startswith("AutoModel") and getattr(held, "_model_mapping", None) is mapping:
            yield name


def _name_architecture(path: Path, name: str) -> None:
    written = json.loads(path.read_text())
    written["architectures"] = [name]
    path.write_text(json.dumps(written, indent=2) + "\n")


def _tokenizer(model: Any, folder: Path) -> Sequence[str]:
    """Copy the tokenizer and processor of where the model was loaded from: a folder, or the Hub's cache."""
    source = str(getattr(model.config, "name_or_path", "") or "")
    if not source.strip("."):
        return [
            "no tokenizer, as the model was loaded from nowhere: tokenizer.save_pretrained(folder) adds it"
        ]
    revision = getattr(model.config, "_commit_hash", None)
    held = {name: _held(source, name, revision) for name in _FILES}
    found = {name: path for name, path in held.items() if path is not None}
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in found.items():
        (folder / name).write_bytes(path.read_bytes())
    if found:
        return []
    return [f"no tokenizer: {source} holds none here; tokenizer.save_pretrained(folder) adds it"]


def _held(source: str, name: str, revision: str | None) -> Path | None:
    """A file of a folder, or of a repository whose files were loaded from the Hub before."""
    if Path(source).is_dir():
        path = Path(source, name)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source, name, revision=revision)
    except HFValidationError:  # a folder that is gone
        return None
    return Path(cached) if isinstance(cached, str) else None
