"""Remote code: a class of a few lines beside the weights, for widths that no config says.

    config.json        auto_map -> modeling_cut.CutLlamaForCausalLM;  cut_shapes, cut_values
    modeling_cut.py    builds the class of transformers, gives its tensors the shapes, its parts the values
                       and, where a cut had to correct methods, the corrected ones

`from_pretrained(folder, trust_remote_code=True)` builds on the meta device: uncut tensors take no memory.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from secateur.architecture import tensor_shapes, unsaved_names
from secateur.configs.maker import Maker
from secateur.configs.records import is_plain, leaves_of, records_of
from secateur.errors import ExportError
from secateur.exports import rebuild
from secateur.exports.methods import Methods, numbers_of

_CODE = '''"""{kind} of transformers with the widths that config.json lists. It needs transformers alone."""

from __future__ import annotations

import copy
{imports}
import torch
from torch import nn
from transformers import {kind}

{methods}
class Cut{kind}({kind}):
    """Gives tensors the shapes of `config.cut_shapes`, and parts the values of `config.cut_values`."""

    def __init__(self, config):
        super().__init__(config)
        for name, shape in getattr(config, "cut_shapes", {{}}).items():
            part, _, leaf = name.rpartition(".")
            part = self.get_submodule(part)
            old = getattr(part, leaf)
            new = torch.empty(shape, dtype=old.dtype, device=old.device)
            is_parameter = isinstance(old, nn.Parameter)
            setattr(part, leaf, nn.Parameter(new, old.requires_grad) if is_parameter else new)
        for name, values in getattr(config, "cut_values", {{}}).items():
            part = self.get_submodule(name)
            for path, value in values.items():
                held, (*outer, last) = part, path.split(".")
                for field in outer:  # this part alone gets another config
                    setattr(held, field, copy.copy(getattr(held, field)))
                    held = getattr(held, field)
                setattr(held, last, tuple(value) if isinstance(getattr(held, last, None), tuple) else value)
{follow}        self.tie_weights()
'''
_IMPORTS = """import importlib
import inspect
from types import CellType, FunctionType
from typing import Any
"""
_FOLLOW = """        for name, steps in METHODS.items():
            for step in steps:
                _derive(self.get_submodule(name), step)
"""
MODULE = "modeling_cut"


def code_of(model: Any) -> str:
    """The class that builds a cut model, as Python."""
    kind, writer = kind_of(model).__name__, Methods()
    for name, module in model.named_modules():
        writer.add(name, module)
    if not writer.texts:
        return _CODE.format(kind=kind, imports="", methods="", follow="")
    needed: tuple[Any, ...] = (rebuild._derive, rebuild._find, rebuild._inside, rebuild._as, rebuild._nothing)
    parts = [*writer.texts.values(), f"METHODS = {writer.table()}\n", *map(inspect.getsource, needed)]
    methods = "\n" + "\n\n".join(parts) + "\n"
    return _CODE.format(kind=kind, imports=_IMPORTS, methods=methods, follow=_FOLLOW)


def kind_of(module: nn.Module) -> type:
    """The class that a module has in transformers: corrected code and remote code are classes on top of it.

    Raises:
        ExportError: It has none in transformers.
    """
    kinds = type(module).__mro__
    own = next((kind for kind in kinds if kind.__module__.startswith("transformers.")), None)
    first: type = getattr(kinds[0], "_pruned_from", kinds)[0]
    if own is None or (first is not own and not opened_from_code(module)):
        do = "export a model of a class of transformers, or choose another format"
        raise ExportError(f"{first.__name__} is no class of transformers, which could not read it", do=do)
    return own


def opened_from_code(module: nn.Module) -> type | None:
    """The class beside the weights that a model was opened with, if it was."""
    kinds = (kind for kind in type(module).__mro__ if kind.__module__.startswith("transformers_modules."))
    return next((kind for kind in kinds if kind.__module__.endswith(f".{MODULE}")), None)


def require_own_code(model: nn.Module) -> None:
    """Refuse to cut a model once more that was opened from a folder with corrected methods.

    Raises:
        ExportError: It was.
    """
    home = sys.modules[(opened_from_code(model) or type(model)).__module__]
    if getattr(home, "METHODS", None):
        what = f"{type(model).__name__} was opened from a folder with corrected code, and was cut again"
        raise ExportError(what, do="cut the model that the folder was made of, or keep this one with sc.save")


def differences(model: Any) -> tuple[dict[str, list[int]], dict[str, dict[str, Any]]]:
    """What tells a cut model from the one that transformers builds from its config.

    Returns:
        The shapes of tensors, and by part the attributes and fields of its config with what they are.

    Raises:
        ExportError: The model differs by more than that, with the reason.
    """
    made = Maker(model, model.config, "config").make({})
    if made is None:
        what = f"{type(model).__name__} is not built again from its config"
        raise ExportError(what, do="export a model whose class takes its config alone")
    shapes, sizes = tensor_shapes(model), tensor_shapes(made)
    odd = sorted(shapes.keys() ^ sizes.keys())
    if odd:
        side = "the config builds no" if odd[0] in shapes else "the model lacks"
        raise ExportError(
            f"the model has other tensors than its config builds: {side} {odd[0]} ({len(odd)} in all)",
            ["a dropped block left a gap, or the model holds masks, adapters or parametrizations"],
            "drop whole layers of a list, and merge adapters, before you export",
        )
    return (
        {name: list(shape) for name, shape in shapes.items() if shape != sizes[name]},
        {name: found for name, part in model.named_modules() if (found := dict(_values(part, made, name)))},
    )


def _values(part: nn.Module, made: nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    """The plain attributes of a part that differ, and the fields of the config that it holds."""
    other = made.get_submodule(name)
    yield from numbers_of(part).items()
    for attribute, value in vars(part).items():
        is_told = attribute != "training" and not attribute.startswith("_") and is_plain(value)
        if is_told and vars(other).get(attribute, value) != value:
            yield attribute, value
    for attribute, record in records_of(part) if name else ():
        before = dict(leaves_of(vars(other).get(attribute) or {}))
        for path, value in leaves_of(record):
            if type(value) is int and before.get(path, value) != value:
                yield ".".join((attribute, *path)), value


def require_sayable(model: Any, shapes: dict[str, list[int]]) -> None:
    """Refuse a cut that shapes and values do not tell.

    Raises:
        ExportError: Buffers that no file holds were cut.
    """
    lost = [name for name in unsaved_names(model) if name in shapes]
    do = "prune with uniform=True, which leaves such axes whole, or protect it"
    if lost:
        what = f"{lost[0]} lost positions, and transformers computes it anew from the config"
        raise ExportError(what, ["it is no part of the saved weights"], do)
