"""Every option of every command as data: help, completion and what was mistyped are told without PyTorch.

The dataclasses that say what the options are lie in modules that need torch, which takes twenty times as long
to import as the answer takes. So `scripts/generate` writes down what `flatten` made of them, and the command
line is parsed by that. A command that is run is imported first, and parsed anew if it has other options by
now; one that is not written down is imported at once.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import typer
from typer.models import ArgumentInfo

from secateur.cli.flatten import call_options

FILE = Path(__file__).with_name("listed.json")

Row: TypeAlias = list[Any]
"""An option as JSON: name, type, default (empty where there is none), and what else Typer is told of it."""

_KINDS: Mapping[str, Any] = {
    "bool": bool,
    "float": float,
    "int": int,
    "path": Path,
    "str": str,
    "floats": list[float],
    "strs": list[str],
}
_TOLD = ("default", "param_decls", "metavar", "help", "show_default", "min", "max")
_BARE = {"argument": typer.Argument, "option": typer.Option}


def as_row(option: inspect.Parameter) -> Row:
    """Write an option down.

    Raises:
        TypeError: It says something that has no place in a row.

    Example:
        >>> held = Annotated[int | None, typer.Option("--count", min=1, help="How many.")]
        >>> as_row(inspect.Parameter("count", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=held))
        ['count', 'int?', [None], 'option', {'default': '--count', 'help': 'How many.', 'min': 1}]
    """
    kind, info = get_args(option.annotation)
    word = next((name for name, held in _KINDS.items() if kind in (held, held | None)), None)
    what = "argument" if isinstance(info, ArgumentInfo) else "option"
    bare = vars(_BARE[what]())
    said = {name: held for name, held in vars(info).items() if held != bare[name]}
    if word is None or said.keys() - {*_TOLD}:
        raise TypeError(f"no row can hold {option}: {sorted(said)}")
    default = [] if option.default is inspect.Parameter.empty else [_plain(option.default)]
    is_optional = kind != _KINDS[word]
    said = {name: list(held) if isinstance(held, tuple) else held for name, held in said.items()}
    return [option.name, word + "?" * is_optional, default, what, said]


def _plain(default: Any) -> Any:
    if isinstance(default, Path):
        return str(default)
    return list(default) if isinstance(default, tuple) else default


def from_row(row: Row) -> inspect.Parameter:
    """Read an option.

    Example:
        >>> row = ["save", "path", [], "option", {"default": "--save"}]
        >>> as_row(from_row(row)) == row
        True
    """
    name, word, default, what, said = row
    kind = _KINDS[word.rstrip("?")]
    info = _BARE[what]()
    for key, held in said.items():
        setattr(info, key, tuple(held) if key == "param_decls" else held)
    if default and kind is Path and default[0] is not None:
        default = [Path(default[0])]
    annotation = Annotated[kind | None if word.endswith("?") else kind, info]
    made = default[0] if default else inspect.Parameter.empty
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=made, annotation=annotation)


def rows_of(function: Callable[..., None]) -> list[Row]:
    """What is written down of a command that `flatten` has made."""
    common = {option.name for option in call_options(())}
    given = inspect.signature(function).parameters.values()
    return [as_row(option) for option in given if option.name not in common]


@cache
def listed() -> Mapping[str, Any]:
    """By name of a command: its text and its options; empty where the file was lost."""
    try:
        held: Mapping[str, Any] = json.loads(FILE.read_text())
    except OSError:
        return {}
    return held


def write_listed(commands: Mapping[str, Callable[..., None]]) -> str:
    """The text of the file, a line for each option."""
    parts = []
    for name, function in sorted(commands.items()):
        rows = ",\n".join(f"  {json.dumps(row)}" for row in rows_of(function))
        parts.append(f"{json.dumps(name)}: [{json.dumps(function.__doc__)}, [\n{rows}\n]]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def stand_in(
    name: str, make: Callable[[], Callable[..., None]], anew: Callable[[], None]
) -> Callable[..., None]:
    """A function with the options of a command that imports it when it is run.

    Args:
        name: A command that is written down.
        make: Imports it.
        anew: Parses the words for the imported one, if it has other options than those.
    """
    text, rows = listed()[name]

    def run(*, context: typer.Context, **values: Any) -> None:
        function = make()
        if [text, rows_of(function)] != [text, rows]:
            anew()
        else:
            function(context=context, **values)

    shown = _signature(rows)
    run.__name__, run.__doc__ = name.rpartition(" ")[2].replace("-", "_"), text
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _signature(rows: Sequence[Row]) -> list[inspect.Parameter]:
    options = [from_row(row) for row in rows]
    return [*options, *call_options(option.name.replace("_", "-") for option in options)]
