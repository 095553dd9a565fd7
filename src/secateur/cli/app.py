"""The application: a module in `commands/` is a command, a folder in it a group of them.

The function of a command is called as its module is. Only the module of the command that is asked for is
imported, when it is run, because most of them need torch; what its options are is written down (`listed`).
Of the others the docstring is read, for the list of commands.
"""

import ast
import difflib
import importlib
import io
import logging
import os
import pkgutil
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from secateur.cli.terminal import talk, typed
from secateur.errors import SecateurError, SourceError

_INTERRUPTED = 130
"""The exit code after Ctrl-C."""

_FOLDER = Path(__file__).with_name("commands")

commands = {name.replace("_", "-"): is_group for _, name, is_group in pkgutil.iter_modules([str(_FOLDER)])}
"""First words, and whether they are those of a group."""


def make_app(words: Sequence[str] | None = None, *, by_list: bool = True) -> typer.Typer:
    """Build the application.

    Args:
        words: What was typed; other commands are there by name and summary alone. None: all of them work.
        by_list: Take the options of what was typed from where they are written down, without importing it.
    """
    app = _typer("secateur", "Prune any PyTorch network: couple, score, cut, prove, recover.", is_top=True)
    app.callback()(_start)
    for name, is_group in commands.items():
        if not is_group:
            app.command(name, short_help=_summary(name))(_function(name, words, by_list=by_list))
            continue
        group = _typer(name, _docstring(_FOLDER / _file(name) / "__init__.py"))
        for verb in _verbs(name):
            path = f"{name} {verb}"
            group.command(verb, short_help=_summary(path))(_function(path, words, by_list=by_list))
        app.add_typer(group, name=name)
    return app


def each_command() -> dict[str, Callable[..., None]]:
    """Every command by its words: "prune", "darknet prune"."""
    names = [f"{name} {verb}" for name in commands for verb in _verbs(name)]
    return {name: _imported(name) for name in [*(name for name in commands if not commands[name]), *names]}


def _verbs(group: str) -> list[str]:
    folder = str(_FOLDER / _file(group))
    return (
        [name.replace("_", "-") for _, name, _ in pkgutil.iter_modules([folder])] if commands[group] else []
    )


def _function(name: str, words: Sequence[str] | None, *, by_list: bool) -> Callable[..., None]:
    """What a command runs; nothing where another one was asked for."""
    if words is None:
        return _imported(name)
    if list(words[: len(name.split())]) != name.split():
        return lambda: None
    from secateur.cli.listed import listed, stand_in

    if not by_list or name not in listed():
        return _imported(name)

    def anew() -> None:
        make_app(words, by_list=False)(args=list(words), prog_name="secateur")

    return stand_in(name, lambda: _imported(name), anew)


def _imported(name: str) -> Callable[..., None]:
    """The function of a command, for which its module is imported."""
    from secateur.cli.flatten import flatten

    path = [_file(word) for word in name.split()]
    module = importlib.import_module(".".join(["secateur.cli.commands", *path]))
    return flatten(getattr(module, path[-1]))


def _summary(name: str) -> str:
    """What the list says of a command: the first line of its module, without its name."""
    file = _FOLDER.joinpath(*map(_file, name.split())).with_suffix(".py")
    text = _docstring(file).partition("\n")[0].partition(": ")[2]
    return text[:1].upper() + text[1:]


def _file(word: str) -> str:
    return word.replace("-", "_")


def _docstring(file: Path) -> str:
    """What a module says of itself; the rest of it is not parsed, as there are thirty to be listed."""
    text = file.read_text()
    end = text.find('"""', 3) if text.startswith('"""') else -1
    return ast.get_docstring(ast.parse(text if end < 0 else text[: end + 3])) or ""


class _Group(TyperGroup):
    """Of an unknown command says the one that is nearest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        near = difflib.get_close_matches(args[0], self.commands, n=1)
        if near and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)


def _typer(name: str, help: str, *, is_top: bool = False) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=help,
        cls=_Group,
        no_args_is_help=True,
        invoke_without_command=is_top,
        add_completion=is_top,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _start(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Prune any PyTorch network: couple, score, cut, prove, recover."""
    if version:
        sys.stdout.write(f"secateur {metadata.version('secateur')}, torch {metadata.version('torch')}\n")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the entry point of `secateur`.

    Args:
        arguments: Words after the program's name; None takes those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no reason to fail
            stream.reconfigure(errors="replace")
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains of a home that cannot be written
    typed.set(tuple(sys.argv[1:] if arguments is None else arguments))
    talk.set((False, False))
    try:
        make_app(_completed() or typed.get())(args=arguments, prog_name="secateur")
    except SecateurError as error:
        again = f"\n  {_with_file(*error.typed)}" if isinstance(error, SourceError) else ""
        _fail(f"{_in_options(str(error))}{again}", error.exit_code)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            sys.stderr.write("stopped: files that were written are whole, and what can be resumed stays\n")
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _fail(f"cannot use {error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> None:
    if talk.get()[1]:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


def _completed() -> list[str]:
    """The words so far, where a shell asks for what may come next."""
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]


def _with_file(word: str, named: str) -> str:
    """The command as typed, with the word that names the file, too."""
    words = (
        re.sub(rf"^(--[a-z-]+=)?{re.escape(word)}$", lambda found: (found[1] or "") + named, one)
        for one in typed.get()
    )
    return shlex.join(["secateur", *words])


def _in_options(text: str) -> str:
    """Name arguments of Python, in what to do, as the options that they are here: min_keep is --min-keep."""
    what, line, do = text.rpartition("\n")
    return (
        what
        + line
        + re.sub(
            r"\b(min_keep|round_to|size_bytes|latency_ms)\b(?!=)|\b(data|format)=(?![\w\[])"
            r"|\boverwrite=True|\bdynamic=False|\bfold=True",
            lambda found: _OPTIONS.get(found[0]) or "--" + found[0].rstrip("=").replace("_", "-"),
            do,
        )
    )


_OPTIONS = {"overwrite=True": "--overwrite", "dynamic=False": "--no-dynamic", "fold=True": "--fold"}
"""Arguments of Python that switch something, as options."""


def _show_warning(message: Any, category: type[Warning], *_: Any) -> None:
    """A warning is one line on stderr; those of other libraries are not the user's business."""
    if category.__module__.startswith("secateur"):
        sys.stderr.write(f"warning: {message}\n")
