"""Recurrent state: what a model returns only to be given back at its next call.

Every tensor that `forward` returns is an output, and outputs keep their shape. A key-value cache is
returned, too, but holds channels of the inside that no one outside relies on; kept whole, it would keep
every head of every language model. It is told from an output by what the model does with it: it stands
under the name of an optional parameter of `forward`, it is a container (a tensor by itself is an output),
and a second call that is given it reads it. A model inside another one counts as well: a wrapper hands on
what the inner one returns. What is not found so, `state=` names; or `outputs=` names all that counts.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.capture.inputs import fields_of, output_tensors, paths_of
from secateur.capture.runner import Runner
from secateur.errors import RequestError


@dataclass(frozen=True)
class Counting:
    """Which fields of what a model returns are outputs; the others are treated as state.

    Attributes:
        outputs: Their names or positions.
        state: Names of what is state even so; None to find them.
    """

    outputs: Collection[str | int]
    state: Collection[str] | None = None


def returned(state: Collection[str] | None, outputs: Collection[str | int] | None) -> Any:
    """What a user says of a model's outputs as one value, for `resolve`.

    Raises:
        RequestError: No output counts.
    """
    if outputs is None:
        return state
    named = [outputs] if isinstance(outputs, (str, int)) else list(outputs)
    if not named:
        raise RequestError("outputs is empty", do="name at least one field of what the model returns")
    return Counting(named, state)


def resolve(
    model: nn.Module,
    output: Any,
    call: tuple[tuple[Any, ...], Mapping[str, Any]],
    wanted: Collection[str] | Counting | None,
) -> frozenset[str]:
    """The names of all that a model returns and that is no output.

    Args:
        model: As for `find_state`.
        output: What it returned.
        call: Its positional and keyword arguments.
        wanted: Names of its state, what counts as output, or None to find out.

    Raises:
        RequestError: An output that is asked for is not among what the model returned.

    Example:
        >>> resolve(nn.Identity(), {"y": 1, "aux": 2}, ((), {}), Counting(["y"]))
        frozenset({'aux'})
    """
    if not isinstance(wanted, Counting):
        return frozenset(find_state(model, output, *call) if wanted is None else wanted)
    fields = list(fields_of(output))
    chosen = {_name(one, fields) for one in wanted.outputs}
    rest = frozenset(fields) - chosen
    state = resolve(model, output, call, wanted.state)
    return rest | (state - chosen)


def _name(wanted: str | int, fields: list[str]) -> str:
    if str(wanted) in fields:
        return str(wanted)
    if str(wanted).lstrip("-").isdigit() and -len(fields) <= int(wanted) < len(fields):
        return fields[int(wanted)]
    raise RequestError(
        f"outputs names '{wanted}', which the model does not return",
        [f"it returns {', '.join(fields) or 'one value without a name'}"],
        "name fields of that, or positions",
    )


def find_state(
    model: nn.Module, output: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> frozenset[str]:
    """Find the names of what a model takes back in.

    Args:
        model: It is run once or twice more if it returned something that may be state; its caches may change.
        output: What it returned for these arguments.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        Paths of fields, such as "past_key_values" or "1.past_key_values".

    Example:
        >>> import torch
        >>> class Memory(nn.Module):
        ...     def forward(self, x, past=None, mask=None):
        ...         seen = x if past is None else x + past[0]
        ...         return {"y": 2 * seen, "past": (seen,), "mask": x > 0 if mask is None else mask}
        >>> model, x = Memory(), torch.ones(3)
        >>> sorted(find_state(model, model(x), (x,), {}))
        ['past']
        >>> class Wrapper(nn.Module):
        ...     def __init__(self, inner):
        ...         super().__init__()
        ...         self.inner = inner
        ...     def forward(self, *args):
        ...         made = self.inner(*args)
        ...         return made["y"], made["past"]
        >>> find_state(Wrapper(model), Wrapper(model)(x), (x,), {})
        frozenset({'1'})
    """
    held = {path: item for path, item in paths_of(output) if _is_container(item)}
    own = {name for name, item in _taken_back(model, output) if _is_read(model, name, item, args, kwargs)}
    rest = {path for path in held if path.partition(".")[0] not in own}
    return frozenset(own | _handed_on(model, rest, args, kwargs)) if rest else frozenset(own)


def _is_container(item: Any) -> bool:
    return not isinstance(item, Tensor) and bool(output_tensors(item))


def _taken_back(module: nn.Module, output: Any) -> Iterator[tuple[str, Any]]:
    """The containers that a module returned under the name of an optional parameter."""
    held = {name: item for name, item in fields_of(output).items() if _is_container(item)}
    optional = _optional(module, {}) if held else ()
    yield from ((name, item) for name, item in held.items() if name in optional)


def _optional(module: nn.Module, known: dict[type, frozenset[str]]) -> frozenset[str]:
    """The parameters of forward that are None by default, kept by class where no instance has its own."""
    is_shared = "forward" not in vars(module)
    if is_shared and type(module) in known:
        return known[type(module)]
    parameters = inspect.signature(module.forward).parameters.values()
    found = frozenset(one.name for one in parameters if one.default is None)
    if is_shared:
        known[type(module)] = found
    return found


def _handed_on(
    model: nn.Module, paths: Collection[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> set[str]:
    """The fields of an output that are the state of a module inside, handed on."""
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = []
    kinds: dict[type, frozenset[str]] = {}
    askable = [module for module in model.modules() if module is not model and _optional(module, kinds)]
    if not askable:  # no need to run anything
        return set()
    with ExitStack() as stack:
        for module in askable:
            handle = module.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True)
            stack.callback(handle.remove)
        try:
            stack.enter_context(Runner())
            again = model(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a foreign model may raise anything; it holds no state then
            return set()
    inner = [
        (module, name, item, given, named)
        for module, given, named, made in calls
        for name, item in _taken_back(module, made)
    ]
    found: set[str] = set()
    known: dict[tuple[int, str], bool] = {}
    for path, held in paths_of(again):
        for module, name, item, given, named in inner if path in paths else ():
            if _is_same(held, item):
                key = (id(module), name)
                if key not in known:
                    known[key] = _is_read(module, name, item, given, named)
                if known[key]:
                    found.add(path)
    return found


def _is_same(one: Any, two: Any) -> bool:
    """Whether two containers are one, or hold the same tensors."""
    return one is two or [*map(id, output_tensors(one))] == [*map(id, output_tensors(two))]


def _is_read(
    model: nn.Module, name: str, item: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a call that is given this reads one of its tensors."""
    try:
        with _Reader(output_tensors(item)):
            model(*args, **{**kwargs, name: item})
    except _ReadError:
        return True
    except Exception:  # noqa: BLE001 - a foreign model may raise anything; then it does not take it back
        return False
    return False


class _ReadError(BaseException):
    """Ends a call at the first operator that tells all; no `Exception`, so that no model handles it."""


class _Reader(Runner):
    """Raises at the first operator that is given one of some tensors."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def _run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if any(id(tensor) in given for tensor in self.tensors):
            raise _ReadError
        return super()._run(func, args, kwargs)
