"""A command is a function of frozen dataclasses; here it becomes one of options, for Typer.

A field is an option: `round_to: int = 1` is `--round-to` with the default 1, and what stands of it under
`Attributes:` in the docstring of its class is its help. Two classes with a field of one name share an option:
the class that writes `Annotated[..., typer.Option(...)]` declares it, else the first of them. What such an
annotation does not say, the name or the help, comes from the field all the same.
"""

import contextlib
import copy
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from secateur.cli.runs import PAIRS, Record, fill_from
from secateur.cli.terminal import Answer, emit, talk, timed


class Without:
    """Which fields of a dataclass are no options of a command, and which have defaults of its own.

    Args:
        *names: Fields that keep the default of the class, or that the command fills later.
        **defaults: Defaults instead of those of the class.
    """

    def __init__(self, *names: str, **defaults: Any) -> None:
        self.names = names
        self.defaults = defaults


class Like(Without):
    """Options like the fields of a dataclass, for a mapping of their values.

    Args:
        held: The dataclass.
        *names: Fields that are no options.
        **defaults: Defaults instead of those of the class.
    """

    def __init__(self, held: type[Any], *names: str, **defaults: Any) -> None:
        super().__init__(*names, **defaults)
        self.held = held


class Unset(str):
    """The default None, and what that means: `lr=Unset("the cfg's")`."""


@dataclasses.dataclass(frozen=True)
class _Option:
    """One option.

    Attributes:
        parameter: What Typer is told of it.
        key: Its name in a file of options.
        is_declared: Whether its annotation says more than a type.
        is_amount: Whether it takes a number or a text.
    """

    parameter: inspect.Parameter
    key: str
    is_declared: bool
    is_amount: bool

    @property
    def kind(self) -> Any:
        """The type of its value, where it has one."""
        kind = get_args(self.parameter.annotation)[0]
        kinds = [one for one in get_args(kind) if one is not types.NoneType]
        return kinds[0] if get_origin(kind) in (typing.Union, types.UnionType) else kind

    @property
    def is_repeated(self) -> bool:
        """Whether it fills a tuple."""
        return get_origin(self.kind) is list

    @classmethod
    def of(cls, name: str, hint: Any, default: Any, text: str) -> "_Option":
        """Make an option of a field; a tuple is one that may be repeated."""
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        declared = next((extra for extra in extras if isinstance(extra, ParameterInfo)), None)
        info = copy.copy(declared) or typer.Option()
        info.help = info.help or text
        word, kinds, kind = name.replace("_", "-"), get_args(kind), _typed(kind)
        is_amount = {float, str} <= {*kinds}
        if is_amount and any(get_origin(one) is Mapping for one in kinds):
            info.metavar = PAIRS
        if isinstance(default, Unset):
            info.show_default, default, kind = str(default), None, kind | None
        if isinstance(info, OptionInfo):
            if info.default is ...:
                info.default = f"--{word}/--no-{word}" if kind is bool else f"--{word}"
            word = str(info.default).partition("/")[0].lstrip("-")
            info.show_default = default is not False and info.show_default  # a switch is off
        elif isinstance(info, ArgumentInfo):
            word = name
        if get_origin(kind) is list and default is not inspect.Parameter.empty:
            kind, default = kind | None, list(default or ()) or None
        annotation = Annotated[kind, info]
        return cls(_parameter(name, annotation, default), word, declared is not None, is_amount)


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_CALL = (
    _parameter("context", typer.Context),
    _parameter(
        "config_file",
        Annotated[
            Path | None,
            typer.Option(
                "--config",
                metavar="FILE",
                help="Options as YAML, ratio: 0.5 a line, or the run.yaml of a run; what is typed wins.",
                callback=fill_from,
                is_eager=True,
            ),
        ],
        None,
    ),
    _parameter(
        "as_json", Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")], False
    ),
    _parameter(
        "verbose",
        Annotated[
            bool, typer.Option("--verbose", help="Say what is done and how long it takes; show tracebacks.")
        ],
        False,
    ),
)
"""What every command takes."""


def call_options(keys: Iterable[str]) -> list[inspect.Parameter]:
    """What a command takes beside its own options: one that has a `--config` of its own keeps that.

    Args:
        keys: Its own options, by their words.
    """
    own = {*keys}
    return [one for one in _CALL if one.name != "config_file" or "config" not in own]


_Maker: TypeAlias = tuple[str, Callable[..., Any], list[str]]
"""The name of an argument, what makes it, and the options that it is made of."""


def flatten(command: Callable[..., Answer]) -> Callable[..., None]:
    """Make a function for Typer of one whose parameters are dataclasses.

    Args:
        command: Returns its answer, which is printed as text or as JSON.

    Returns:
        A function of the fields, and of `--json`, `--config` and `--verbose`.
    """
    options, makers = _gathered(command)

    def run(*, context: typer.Context, **values: Any) -> None:
        talk.set((values.pop("as_json"), values.pop("verbose")))
        values.pop("config_file", None)
        values = {name: _as_field(options[name], value) for name, value in values.items()}
        record = Record.of(context.command_path, {options[name].key: values[name] for name in values})
        record.tell()
        made = {name: make(**{field: values[field] for field in fields}) for name, make, fields in makers}
        with timed(record.command):
            answer = command(**made)
        if not answer.failed:
            record.write()
        emit(answer.numbers, answer.text, as_json=talk.get()[0])
        if answer.failed:
            raise typer.Exit(1)

    own = [option.parameter for option in options.values()]
    shown = [*own, *call_options(option.key for option in options.values())]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


_NONE = re.compile(r"[;,:] None [^.;]*")
"""What None means is for callers in Python: here the option is left out."""


def _gathered(command: Callable[..., Answer]) -> tuple[dict[str, _Option], list[_Maker]]:
    """The options of a command, and what makes its arguments of their values."""
    options: dict[str, _Option] = {}
    makers: list[_Maker] = []
    signature = inspect.signature(command).parameters
    hints = typing.get_type_hints(command, include_extras=True)
    for name in signature:
        held, *extras = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        use = next((extra for extra in extras if isinstance(extra, Without)), Without())
        if isinstance(use, Like) or dataclasses.is_dataclass(held):
            fields = _fields_of(use.held if isinstance(use, Like) else held, use)
            found = {option.parameter.name: option for option in fields}
            makers.append((name, dict if isinstance(use, Like) else held, list(found)))
        else:
            found = {name: _Option.of(name, hints[name], signature[name].default, "")}
            makers.append((name, lambda **value: next(iter(value.values())), [name]))
        for field, option in found.items():
            if field in options and options[field].kind != option.kind:
                both = f"{options[field].kind} and {option.kind}"
                raise TypeError(f"--{option.key} of {command.__name__} would be {both}")
            if field not in options or (option.is_declared and not options[field].is_declared):
                options.pop(field, None)
                options[field] = option
    return options, makers


def _fields_of(held: type[Any], use: Without) -> Iterator[_Option]:
    hints, texts = typing.get_type_hints(held, include_extras=True), described(held)
    for field in held.__dataclass_fields__.values():  # with those that only the constructor takes
        kind = hints[field.name]
        kind = kind.type if isinstance(kind, dataclasses.InitVar) else kind
        if field.init and get_origin(kind) is not typing.ClassVar and field.name not in use.names:
            own = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            default = use.defaults.get(field.name, own)
            text = _NONE.sub("", texts.get(field.name, ""))
            text = re.sub(r"`(\w+)`", lambda word: _in_words(word[1], hints), text)
            yield _Option.of(field.name, kind, default, text)


def _in_words(name: str, fields: typing.Container[str]) -> str:
    return f"--{name.replace('_', '-')}" if name in fields else f"`{name}`"


def _as_field(option: _Option, value: Any) -> Any:
    """A repeated option fills a tuple."""
    if option.is_repeated:
        return tuple(value or ())
    return as_amount(value) if option.is_amount else value


def as_amount(given: Any) -> Any:
    """A number where a text looks like one: 0.5, while "50%" and "2MB" are words."""
    with contextlib.suppress(ValueError, TypeError):
        return float(given)
    return given


def _typed(hint: Any) -> Any:
    """The type that Typer reads a field by: words where several kinds will do, and for what is looked up."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [_typed(kind) for kind in get_args(hint) if kind is not types.NoneType]
        many = any(get_origin(kind) in (Sequence, Collection) for kind in get_args(hint))
        return (list[str] if many else kinds[0] if len(set(kinds)) == 1 else str) | None
    if get_origin(hint) is tuple:
        return list[_typed(get_args(hint)[0])]  # type: ignore[misc]
    if get_origin(hint) is Mapping:
        return list[str]
    return str if hint is Any or get_origin(hint) is Literal else hint


def described(held: type) -> dict[str, str]:
    """Read what a class says of its fields, under `Attributes:` or `Args:` of its docstring.

    Example:
        >>> described(Without)
        {'*names': 'Fields that keep the default of the class, or that the command fills later.', ...}
    """
    texts: dict[str, str] = {}
    for one in reversed(held.__mro__[:-1]):
        part = re.search(r"\n(?:Attributes|Args):\n((?: +.*\n?|\n)+)", inspect.cleandoc(one.__doc__ or ""))
        for line in (part[1] if part else "").splitlines():
            if entry := re.fullmatch(r" {4}([*\w]+): (.*)", line):
                name = entry[1]
                texts[name] = entry[2]
            elif line.strip():
                texts[name] += f" {line.strip()}"
    return texts
