"""A folder with the tensors, and a short Python file that builds the pruned model without secateur."""

import pprint
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from secateur.capture.copies import copy_module
from secateur.cut.slicing import set_field
from secateur.errors import ExportError
from secateur.exports import rebuild
from secateur.exports.format import ExportSubject, Format, formats
from secateur.exports.methods import Methods, numbers_of, steps_of
from secateur.plans.plan import Plan
from secateur.user_code import is_file_word

WEIGHTS = "model.safetensors"
REBUILD = "rebuild.py"

_BUILT = ("torchvision", "timm", "zoo", "hf")
"""Kinds of words whose models the reader can build."""


def write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Write the tensors, and the file that builds the model."""
    if subject.plan is None and any(map(steps_of, subject.model.modules())):
        do = "pass the result of sc.prune"
        raise ExportError(f"nobody knows how this {type(subject.model).__name__} was cut", do=do)
    path.mkdir()
    held = {**dict(subject.model.named_parameters()), **dict(subject.model.named_buffers())}
    save_file({name: one.detach().clone().contiguous() for name, one in held.items()}, path / WEIGHTS)
    (path / REBUILD).write_text(_rebuild_text(subject))
    notes = [f"{REBUILD} is Python, which runs when the model is built from the folder"]
    if _here(subject) is not None:
        notes.append("read back in this process: no word says what builds the uncut model")
    return notes


def _rebuild_text(subject: ExportSubject) -> str:
    """The text of `exports/rebuild.py` with the integers and methods of a model in it."""
    source = Path(rebuild.__file__).read_text()
    head, line, rest = source.partition(f"# {'-' * 106}\n")
    empty, _, tail = rest.partition(line)
    writer = Methods()
    for name, module in subject.model.named_modules():
        writer.add(name, module)
    attributes = _attributes(subject.model, subject.plan)
    first, second = (
        "ATTRIBUTES: dict[str, dict[str, Any]] = ",
        "METHODS: dict[str, list[dict[str, dict[str, tuple[Any, str]]]]] = ",
    )
    made = empty.replace(f"{first}{{}}", first + pprint.pformat(attributes, width=110, sort_dicts=False))
    made = made.replace(f"{second}{{}}", second + writer.table())
    head = head.replace("MyModel()", f"{type(subject.model).__name__}(...)")
    return f"{head}{line}\n{writer.functions()}{made.lstrip()}{line}{tail}"


def _attributes(model: nn.Module, plan: Plan | None) -> dict[str, dict[str, Any]]:
    """The integers that cuts have set, as they are in the model now."""
    found: dict[str, dict[str, Any]] = {}
    step = plan
    while step is not None:
        if step.dropped:
            do = "export it as pt2 or ONNX, or keep it with sc.save"
            raise ExportError(f"blocks were dropped from {step.model}: {', '.join(step.dropped[:3])}", do=do)
        for name, paths in step.attributes.items():
            module = model.get_submodule(name)
            found.setdefault(name, {}).update({path: _value(module, path.split(".")) for path in paths})
        for name in step.corrections:
            module = model.get_submodule(name)
            found.setdefault(name, {}).update(numbers_of(module))
        step = step.previous
    return {name: values for name, values in found.items() if values}


def _value(owner: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(owner, (tuple, list)):
            owner = owner[int(part)]
        else:
            owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
    return tuple(owner) if isinstance(owner, torch.Size) else owner


def _about(subject: ExportSubject) -> Mapping[str, Any]:
    """What builds the uncut model."""
    assert subject.plan is not None
    first = subject.plan.first
    word = first.source
    if is_file_word(word):
        file, _, name = word.partition(":")
        word = f"{Path(file).resolve()}:{name or 'model'}"
    return {
        "word": word,
        "arguments": dict(first.source_arguments),
        "places": [one for one in sys.path if one],
    }


def _here(subject: ExportSubject) -> Mapping[str, Any] | None:
    """The uncut model without its numbers, where no word says what builds it."""
    word = subject.plan.first.source if subject.plan is not None else ""
    if is_file_word(word) or word.partition(":")[0] in _BUILT:
        return None
    result, plan = subject.result, subject.plan
    if plan is None or (result is not None and Plan.of(result.original) is None and plan.previous is None):
        model = copy_module(subject.model if result is None else result.original)
    else:
        model = _widened(copy_module(subject.model), plan)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return {"model": model.cpu().eval()}


def _widened(model: nn.Module, plan: Plan) -> nn.Module:
    """A cut model as if it were uncut, but for the shapes: the code and the integers that it had."""
    for module in model.modules():
        steps = steps_of(module)
        if steps:
            module.__class__ = steps[0].__bases__[0]
    step: Plan | None = plan
    while step is not None:
        for name, sizes in step.restricted_to(()).widths.items():
            for path, number in sizes.items():
                set_field(model.get_submodule(name), path.split("."), number)
        step = step.previous
    return model


formats.add(
    "state-dict",
    Format(
        what="safetensors and a short rebuild.py, for the model's own class without secateur",
        suffix="",
        write=write,
        reader="state_dict",
        needs_norms="it is filled into the model's own class, which has them",
        about=_about,
        here=_here,
    ),
)
