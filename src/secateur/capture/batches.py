"""Batches: whatever a user has as data becomes a list of inputs of the model's form.

Criteria, recovery steps and whoever else looks at data read it through `batches`, so that all of them take
the same loaders and refuse the same mistakes.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.inputs import map_inputs
from secateur.errors import CaptureError, PathError, RequestError, SecateurError

TARGETS = ("label", "labels", "target", "targets", "y")


def batches(data: Iterable[Any] | None, model: nn.Module, example_inputs: Any) -> list[Any] | None:
    """Read data once, into a list of inputs like the example inputs.

    A model of one input is given a tensor: of a batch that is a tuple or list the first item is taken
    (labels follow it), of a dict the item named like the first parameter of `forward`, or the only tensor.
    A model of several inputs gets the first items of a tuple, or those of a dict that are named like its
    parameters. A model of keyword inputs gets those of a dict. Tensors are brought to the device of the
    example inputs.

    Args:
        data: A loader, list or generator of batches; None if there is none. All batches are held in memory.
        model: Whose `forward` names the inputs.
        example_inputs: What the model takes: a tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        RequestError: It is one batch rather than a list of them, yields none, or a batch lacks an input or
            holds no sample; the batch is named.

    Example:
        >>> import torch
        >>> loader = [(torch.zeros(8, 3), torch.zeros(8)), {"input": torch.zeros(1, 3), "label": None}]
        >>> [batch.shape[0] for batch in batches(loader, nn.Linear(3, 2), torch.zeros(1, 3))]
        [8, 1]
        >>> batches(iter([]), nn.Linear(3, 2), torch.zeros(1, 3))
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: the data yields no batch
          a generator that was read before yields nothing more
          pass a list of batches, or a loader that starts anew
    """
    if data is None:
        return None
    found = [
        _adapted(number, batch, model, example_inputs) for number, batch in enumerate(_require_batches(data))
    ]
    if not found:
        raise _nothing()
    return found


@dataclass(frozen=True, eq=False)
class Sample:
    """One batch with what should come out.

    Attributes:
        number: Its place in the data, from 0.
        inputs: Inputs of the model's form.
        target: What follows the inputs in a tuple, or is called label, labels, target, targets or y in a
            dict; None if there is no such thing.
    """

    number: int
    inputs: Any
    target: Any = None


class Samples:
    """Data with its labels, adapted batch by batch as it is read, and read anew by each loop over it.

    A loader or list is never held in memory; an iterator, which can be read once, is.

    Args:
        data: As for `batches`.
        model: As for `batches`.
        example_inputs: As for `batches`; None for what `form_of` reads off the first batch.

    Raises:
        RequestError: It is one batch rather than a list of them.

    Example:
        >>> import torch
        >>> samples = Samples([(torch.zeros(8, 3), torch.ones(8))], nn.Linear(3, 2))
        >>> [(sample.inputs.shape[0], float(sample.target.sum())) for sample in samples]
        [(8, 8.0)]
    """

    def __init__(self, data: Iterable[Any], model: nn.Module, example_inputs: Any = None) -> None:
        data = _require_batches(data)
        self.data = list(data) if isinstance(data, Iterator) else data
        self.model = model
        self._form = example_inputs

    def __iter__(self) -> Iterator[Sample]:
        """Read the data.

        Raises:
            RequestError: It yields no batch, or a batch lacks an input or holds no sample.
        """
        number = -1
        for number, batch in enumerate(self.data):
            yield self._sample(number, batch)
        if number < 0:
            raise _nothing()

    def _sample(self, number: int, batch: Any) -> Sample:
        if self._form is None:
            self._form = form_of(batch, self.model)
        inputs = _adapted(number, batch, self.model, self._form)
        return Sample(number, inputs, _target_of(batch, self._form))


class RawSamples(Samples):
    """Batches for a function of the user's own, which reads them as they are.

    The inputs are the batch with a tensor before it, its number: what it holds itself may be anything.

    Args:
        data: As for `batches`.

    Raises:
        RequestError: It is one batch rather than a list of them.

    Example:
        >>> [sample.inputs for sample in RawSamples(["a", "b"])]
        [(tensor([0]), 'a'), (tensor([1]), 'b')]
    """

    def __init__(self, data: Iterable[Any]) -> None:
        super().__init__(data, nn.Identity())

    def _sample(self, number: int, batch: Any) -> Sample:
        return Sample(number, (torch.tensor([number]), batch))


def form_of(batch: Any, model: nn.Module) -> Any:
    """What a model takes, where there are no example inputs: read off a batch and the model's `forward`.

    A dict is keyword inputs if it names other parameters of `forward` than those that have to be given, or
    more; labels are none of them. Of any other batch the first items are the inputs, as many as have to be.

    Args:
        batch: The first one.
        model: Whose `forward` says how many inputs have to be given, and names them.

    Returns:
        A tensor, tuple or dict that stands for the example inputs; empty tensors on the model's device.

    Example:
        >>> form_of({"input": None, "label": None}, nn.Linear(3, 2)).shape
        torch.Size([0])
    """
    held = next(chain(model.parameters(), model.buffers()), None)
    empty = torch.empty(0, device=held.device if held is not None else None)
    parameters = inspect.signature(model.forward).parameters.values()
    taken = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    needed = [one.name for one in taken if one.default is one.empty]
    first = needed or [one.name for one in taken[:1]]
    if isinstance(batch, Mapping):
        inputs = [name for name in batch if name in needed or name not in TARGETS]
        named = [one.name for one in taken if one.name in inputs]
        if not taken and any(one.kind is one.VAR_KEYWORD for one in parameters):
            named = inputs
        if named and named != first:
            return dict.fromkeys(named, empty)
    return empty if len(first) <= 1 else (empty,) * len(first)


def _require_batches(data: Any) -> Iterable[Any]:
    if isinstance(data, (Tensor, Mapping, str, bytes)) or not isinstance(data, Iterable):
        raise RequestError(
            f"the data is one {type(data).__name__}, not batches",
            do="pass a list of batches, such as [x] or x.split(64), or a loader",
        )
    return data


def _nothing() -> RequestError:
    return RequestError(
        "the data yields no batch",
        ["a generator that was read before yields nothing more"],
        "pass a list of batches, or a loader that starts anew",
    )


def _target_of(batch: Any, example_inputs: Any) -> Any:
    target = None
    if isinstance(batch, Mapping):
        target = next((batch[name] for name in TARGETS if name in batch), None)
    elif isinstance(batch, (tuple, list)) and not isinstance(example_inputs, Mapping):
        count = 1 if isinstance(example_inputs, Tensor) else len(example_inputs)
        target = batch[count] if len(batch) > count else None
    wanted = next(leaf for leaf in pytree.tree_leaves(example_inputs) if isinstance(leaf, Tensor)).device
    return map_inputs(target, lambda leaf: leaf.to(wanted))


@contextmanager
def naming_batch(number: int) -> Iterator[None]:
    """Say of an error which batch the model was run on.

    Args:
        number: The batch's place in the data, from 0.

    Raises:
        PathError: The model takes another path on it than in its record.
        CaptureError: The model does not run on it.
    """
    try:
        yield
    except PathError as error:
        raise PathError(
            f"batch {number} of the data takes another path than the example inputs",
            [str(error).partition("\n")[0]],
            "pass batches like the example inputs (padded like them, say), or leave data out",
        ) from error
    except SecateurError:
        raise
    except Exception as error:
        raise CaptureError(
            f"the model does not run on batch {number} of the data: {type(error).__name__}: {error}",
            do="pass batches that model(*inputs) accepts in eval mode",
        ) from error


def nan_in(inputs: Any) -> str:
    """To say of inputs that hold NaN, which no model can mend; empty if none does."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return ", whose inputs hold NaN" if any(bool(tensor.isnan().any()) for tensor in tensors) else ""


def _adapted(number: int, batch: Any, model: nn.Module, example_inputs: Any) -> Any:
    inputs = _inputs_of(number, batch, model, example_inputs)
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not tensors:
        raise RequestError(
            f"batch {number} of the data holds no tensor: {type(batch).__name__}",
            do="pass batches of tensors",
        )
    if any(leaf.numel() == 0 for leaf in tensors):
        raise RequestError(f"batch {number} of the data holds no sample", do="leave empty batches out")
    wanted = next(leaf for leaf in pytree.tree_leaves(example_inputs) if isinstance(leaf, Tensor)).device
    return map_inputs(inputs, lambda leaf: leaf.to(wanted))


def _inputs_of(number: int, batch: Any, model: nn.Module, example_inputs: Any) -> Any:
    if isinstance(example_inputs, Mapping):
        if not isinstance(batch, Mapping):
            raise RequestError(
                f"batch {number} of the data is a {type(batch).__name__}, "
                f"the model takes {', '.join(example_inputs)}",
                do="yield dicts with these names",
            )
        return {name: _item(number, batch, name) for name in example_inputs}
    count = 1 if isinstance(example_inputs, Tensor) else len(example_inputs)
    if isinstance(batch, Mapping):
        items = _items(number, batch, model, count)
    elif isinstance(batch, (tuple, list)):
        items = batch
    else:
        items = [batch]
    if len(items) < count:
        raise RequestError(
            f"batch {number} of the data holds {len(items)} items, the model takes {count} inputs",
            do="yield the inputs first, in the order of forward",
        )
    return items[0] if isinstance(example_inputs, Tensor) else tuple(items[:count])


def _items(number: int, batch: Mapping[str, Any], model: nn.Module, count: int) -> Sequence[Any]:
    """The first inputs of `forward` by name; where there is one input and one tensor, that."""
    names = list(inspect.signature(model.forward).parameters)[:count]
    tensors = [item for item in batch.values() if isinstance(item, Tensor)]
    if count == 1 and len(tensors) == 1 and names[0] not in batch:
        return tensors
    return [_item(number, batch, name) for name in names]


def _item(number: int, batch: Mapping[str, Any], name: str) -> Any:
    if name not in batch:
        raise RequestError(
            f"batch {number} of the data holds {', '.join(map(str, batch))}, the model takes '{name}'",
            do="name the input as forward does",
        )
    return batch[name]
