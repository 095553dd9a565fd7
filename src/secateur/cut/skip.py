"""Skip: what stands where a residual block was, unless the block leaves the list that held it.

Where something stands, every other module keeps its name: the state dict loses the names of the dropped
blocks and no other changes. Where a block leaves a list, those behind it move up (`cut/shorten.py`).
"""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.copies import copy_module
from secateur.cut.shorten import left_out, renumber, shorten


@dataclass(frozen=True)
class CallForm:
    """How a block is called and what it returns.

    Attributes:
        takes: The argument that holds the residual stream, by position or by keyword.
        returns: None where the block returns the stream alone; else the items of its tuple: the argument that
            comes back unchanged at this place, by position or by keyword, or None for what nobody reads.
        is_alone: The block is called with this one positional argument and nothing else.
    """

    takes: int | str = 0
    returns: tuple[int | str | None, ...] | None = None
    is_alone: bool = True


PLAIN = CallForm()
"""One tensor in, one tensor out."""


class Skip(nn.Module):
    """Returns the residual stream as it came in, in the form that the replaced block returned it in.

    Plain attributes of the block (numbers, texts, configs) stay readable, as code around it may ask for them;
    its tensors, modules and hooks are gone.

    Args:
        block: What is replaced; not changed.
        form: How it is called.

    Example:
        >>> skip = Skip(nn.TransformerEncoderLayer(8, 2, batch_first=True), CallForm("src", ("src", None)))
        >>> skip(src=1.0, src_mask=None), skip(2.0)
        ((1.0, None), (2.0, None))
        >>> skip
        Skip(TransformerEncoderLayer)
    """

    def __init__(self, block: nn.Module, form: CallForm) -> None:
        super().__init__()
        self.skipped_type: str = block.skipped_type if isinstance(block, Skip) else type(block).__name__
        self.skipped_form = form
        self.skipped_names: tuple[str, ...] = _argument_names(block)
        self.training = block.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the residual stream."""
        form = self.skipped_form
        if form.returns is None:
            return self._given(form.takes, args, kwargs)
        return tuple(None if key is None else self._given(key, args, kwargs) for key in form.returns)

    def _given(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An argument, whether this call passes it by position or by keyword."""
        names = self.skipped_names
        if isinstance(key, int):
            return args[key] if key < len(args) else kwargs[names[key]]
        return kwargs[key] if key in kwargs else args[names.index(key)]

    def remember(self, block: nn.Module, memo: dict[int, Any]) -> None:
        """Copy the plain attributes of the replaced block.

        Args:
            block: The replaced block.
            memo: What `copy.deepcopy` has copied so far; shared objects stay shared.
        """
        for name, value in vars(block).items():
            is_method = callable(value) and hasattr(nn.Module, name)  # a patched forward
            if name not in self.__dict__ and not is_method and not _holds_network(value):
                self.__dict__[name] = copy.deepcopy(value, memo)

    def extra_repr(self) -> str:
        """The class that was replaced."""
        return self.skipped_type


def _argument_names(block: nn.Module) -> tuple[str, ...]:
    """The names of the positional arguments of a block's forward, `self` left out."""
    if isinstance(block, Skip):
        return block.skipped_names
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(block.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def _holds_network(value: Any) -> bool:
    return any(isinstance(leaf, (Tensor, nn.Module)) for leaf in pytree.tree_leaves(value))


def drop(
    model: nn.Module,
    names: Iterable[str],
    forms: Mapping[str, CallForm],
    lists: Mapping[str, Sequence[int]] | None = None,
    numbers: Mapping[str, Mapping[str, Any]] | None = None,
) -> nn.Module:
    """Make a new model in which some blocks hand on what they are given, or have left their list.

    Args:
        model: The original; not changed.
        names: Qualified names of the blocks.
        forms: How each is called; those not named are called with one tensor and return one.
        lists: Of the lists that blocks leave, the positions that stay.
        numbers: By module of the new model, the attributes that number and count layers.

    Raises:
        AttributeError: The model has no module of such a name.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        >>> drop(net, ["1"], {})
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): Identity()
        )
    """
    memo: dict[int, Any] = {}
    skips: list[tuple[nn.Module, Skip]] = []
    gone = left_out(names := list(names), lists or {})
    for name in names:
        block = model.get_submodule(name)
        form = forms.get(name, PLAIN)
        parent = model.get_submodule(name.rpartition(".")[0])
        if name in gone or (form == PLAIN and type(parent).forward is nn.Sequential.forward):
            memo[id(block)] = nn.Identity().train(block.training)
            continue
        skip = Skip(block, form)
        memo[id(block)] = skip
        skips.append((block, skip))
    with torch.inference_mode(False):  # tensors made in a caller's inference mode could not be trained
        for block, skip in skips:
            skip.remember(block, memo)
        result = copy_module(model, memo)
    shorten(result, lists or {})
    renumber(result, numbers or {})
    return result
