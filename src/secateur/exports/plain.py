"""Plain calls: what files can say of inputs and outputs is tensors, and dicts and tuples of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.copies import copy_module
from secateur.capture.inputs import as_call, fields_of
from secateur.exports.format import ExportSubject
from secateur.exports.fresh import flatten


class PlainInputs(nn.Module):
    """Takes the tensors of a model's inputs one after the other; what is no tensor is fixed.

    Args:
        model: The model.
        example_inputs: Say where the tensors go.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        super().__init__()
        self.model = model
        leaves, self.form = pytree.tree_flatten(as_call(example_inputs))
        self.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def forward(self, *tensors: Tensor) -> Any:
        """Run the model."""
        leaves = list(self.leaves)
        for at, tensor in zip(self.places, tensors, strict=True):
            leaves[at] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.form)
        return self.model(*args, **kwargs)


def plain_output(subject: ExportSubject) -> tuple[tuple[str, ...], list[str]]:
    """Let a subject's model return what a file can say: tensors, and tuples, lists and dicts of them.

    Another output becomes a dict of its fields, or a tuple of its tensors where not every field is one. A
    hook does that, as a wrapper would hide the names of the inputs.

    Args:
        subject: What is exported; its model gets the hook.

    Returns:
        The names of the tensors of a dict, and notes.
    """
    args, kwargs = as_call(subject.example_inputs)
    with torch.no_grad():
        output = copy_module(subject.model)(*args, **kwargs)  # a run may leave something behind
    fields = fields_of(output)
    names = tuple(name for name, field in fields.items() if isinstance(field, Tensor))
    if len(names) != len(list(flatten(output))) or type(output) in (tuple, list):
        names = ()
    if _is_plain(output):
        return names, []

    def replaced(module: nn.Module, args: Any, output: Any) -> Any:
        found = tuple(flatten(output))
        return dict(zip(names, found, strict=True)) if names else found

    subject.model.register_forward_hook(replaced)
    kind = f"a {'dict' if names else 'tuple of tensors'} instead of {type(output).__name__}"
    return names, [f"returns {kind}" + (f": {', '.join(fields)}" if fields else "")]


def _is_plain(output: Any) -> bool:
    if type(output) in (tuple, list):
        return all(map(_is_plain, output))
    return isinstance(output, Tensor) or (type(output) is dict and all(map(_is_plain, output.values())))
