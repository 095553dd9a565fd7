"""The application: every module in `commands/` registers one command, every folder in it a group of them."""

import logging
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any

import typer

from secateur.errors import SecateurError, SourceError
from secateur.registry import Registry

_INTERRUPTED = 130
"""The exit code after Ctrl-C."""

typed: ContextVar[tuple[str, ...]] = ContextVar("typed")
"""The words after the program's name, for reports and plans that say what made them."""


@dataclass(frozen=True)
class Group:
    """Commands that share a first word, such as `secateur darknet train`.

    Attributes:
        help: What they are for, in a line.
        verbs: The commands by their second word.
    """

    help: str
    verbs: Registry[Callable[..., None]]


commands: Registry[Callable[..., None] | Group] = Registry("command", "secateur.cli.commands")


def make_app() -> typer.Typer:
    """Build the application from the registered commands."""
    app = _typer("secateur", "Prune any PyTorch network: couple, score, cut, prove, recover.", is_top=True)
    app.callback()(_start)
    for name, command in commands.items():
        if isinstance(command, Group):
            group = _typer(name, command.help)
            for verb, function in command.verbs.items():
                group.command(verb)(function)
            app.add_typer(group, name=name)
        else:
            app.command(name)(command)
    return app


def each_command() -> dict[str, Callable[..., None]]:
    """Every command by its words: "prune", "darknet prune"."""
    found: dict[str, Callable[..., None]] = {}
    for name, command in commands.items():
        if isinstance(command, Group):
            found |= {f"{name} {verb}": function for verb, function in command.verbs.items()}
        else:
            found[name] = command
    return found


def _typer(name: str, help: str, *, is_top: bool = False) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=help,
        no_args_is_help=True,
        invoke_without_command=is_top,
        add_completion=False,
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
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains of a home that cannot be written
    typed.set(tuple(sys.argv[1:] if arguments is None else arguments))
    try:
        make_app()(args=arguments, prog_name="secateur")
    except SecateurError as error:
        again = f"\n  {_with_file(*error.typed)}" if isinstance(error, SourceError) else ""
        sys.stderr.write(f"error: {_in_options(str(error))}{again}\n")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            sys.stderr.write("stopped: files that were written are whole, and what can be resumed stays\n")
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"error: cannot use {error.filename or 'a file'}: {error.strerror or error}\n")
        sys.exit(1)


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
            r"\b(min_keep|round_to|size_bytes|latency_ms)\b(?!=)|\bdata=(?![\w\[])",
            lambda found: "--" + found[0].rstrip("=").replace("_", "-"),
            do,
        )
    )


def _show_warning(message: Any, category: type[Warning], *_: Any) -> None:
    """A warning is one line on stderr; those of other libraries are not the user's business."""
    if category.__module__.startswith("secateur"):
        sys.stderr.write(f"warning: {message}\n")
