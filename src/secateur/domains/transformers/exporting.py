"""The export formats "hf", a folder that is read back with the tokens that it generates, and "gguf"."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.domains.transformers.folder import auto_classes, require_folder, write_folder
from secateur.domains.transformers.gguf_file import require_gguf, write_gguf
from secateur.domains.transformers.read_folder import generate
from secateur.domains.transformers.remote import kind_of
from secateur.exports.format import ExportSubject, Format, formats
from secateur.exports.program import reason

_PROMPT = 6
_NEW = {"max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": 0}
_OPTIONS: Sequence[Mapping[str, Any]] = (
    {**_NEW, "use_cache": True},
    {**_NEW, "use_cache": False},
    {**_NEW, "num_beams": 2},
)
"""With and without the cache, and by beams; all for a batch."""


_known: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
"""What the models being written generate, as the reader is given it."""


def _write(subject: ExportSubject, path: Path) -> Sequence[str]:
    written = write_folder(subject.model, path)
    _known[subject.model], failures = _generated(subject.model, subject.example_inputs)
    return [*written.notes, *failures]


def _about(subject: ExportSubject) -> Mapping[str, Any]:
    """Which class opens the folder, and what the model generates from the tokens of its example."""
    model: Any = subject.model
    is_remote = hasattr(model.config, "cut_shapes")
    kind = auto_classes(model)[0] if is_remote else kind_of(model).__name__
    return {"kind": kind, "is_remote": is_remote, "generated": _known[model]}


def _generated(model: Any, example_inputs: Any) -> tuple[list[Any], list[str]]:
    """Calls of `generate` with the tokens that come out, and those that the model does not survive itself."""
    prompts, found, failures = _prompts(model, example_inputs), [], []
    for options in _OPTIONS if prompts else ():
        try:
            found.append((prompts, options, generate(model, prompts, options)))
        except Exception as error:  # noqa: BLE001 - T5 with fewer encoder than decoder layers does, uncut as well
            told = ", ".join(f"{name}={options[name]}" for name in options if name not in _NEW)
            failures.append(f"generate({told}) fails with this model, in memory as well: {reason(error)}")
    return found, failures


def _prompts(model: Any, example_inputs: Any) -> list[list[int]]:
    """Two rows of tokens of the example; none for a model that does not generate text from text."""
    if not model.can_generate() or model.main_input_name != "input_ids":
        return []
    leaves = pytree.tree_leaves(example_inputs)
    tokens = next((one for one in leaves if isinstance(one, Tensor) and one.dtype == torch.long), None)
    if tokens is None or tokens.dim() != 2:
        return []
    prompt: list[int] = tokens[0, :_PROMPT].tolist()
    return [prompt, prompt[::-1]]


formats.add(
    "hf",
    Format(
        what="a folder that transformers, vLLM and llama.cpp's converter read",
        suffix="",
        write=_write,
        reader=Path(__file__).with_name("read_folder.py"),
        extra="language",
        about=_about,
        require=require_folder,
        needs_norms="it is opened with the classes of transformers, which have them",
    ),
)
formats.add(
    "gguf",
    Format(
        what="GGUF for llama.cpp, of models with the layers of Llama",
        suffix=".gguf",
        write=lambda subject, path: write_gguf(subject.model, path),
        reader=Path(__file__).with_name("read_gguf.py"),
        extra="gguf",
        outputs=1,
        require=require_gguf,
        needs_norms="its layers are those of Llama, which has none",
    ),
)
