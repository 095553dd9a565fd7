"""Open a model by its word, or from a folder that secateur saved.

Code runs only from a file that the user names. A plan may say that a file built its model; that file is run
when it is named again, behind the folder:

    net.py:make               runs net.py
    runs/pruned               is refused if its plan names a file
    runs/pruned@net.py:make   runs net.py, and fills what its factory returns from the folder
"""

import contextlib
import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from secateur.errors import CheckpointError, RequestError, SourceError
from secateur.plans.plan import Plan, identity_plan
from secateur.sources.registry import Arguments, Built, call_factory, sources
from secateur.write.checkpoint import PLAN, load_model, load_plan
from secateur.zoo import models as zoo


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with the plan that leads to it from its uncut architecture.

    Attributes:
        model: The module, with its saved weights if it was saved.
        plan: What was cut of the architecture so far; names source and arguments.
        source: The word that built the uncut architecture.
        input_shape: Shape of its usual input, batch of one; None where unknown.
        example_inputs: Inputs that are no single float tensor, such as token ids by keyword.
    """

    model: nn.Module
    plan: Plan
    source: str
    input_shape: tuple[int, ...] | None
    example_inputs: Any = None


def build(word: str, arguments: Arguments) -> Built:
    """Build an architecture from its word.

    Args:
        word: "zoo:vgg19", "torchvision:resnet18", "timm:...", "hf:folder" or "path/to/file.py:factory".
        arguments: Keyword arguments of the factory.

    Raises:
        RequestError: The word names nothing, or the arguments do not fit.

    Example:
        >>> built = build("zoo:vgg11", {"width": 0.25})
        >>> type(built.model).__name__, built.input_shape
        ('VGG', (1, 3, 32, 32))
    """
    kind, _, name = word.partition(":")
    if is_file_word(word):
        with _imports_from(Path(kind).resolve().parent):
            return Built(call_factory(_from_file(Path(kind), name), word, arguments))
    if not name:
        ways = "name a model in one of these ways, or a folder that secateur saved"
        raise RequestError(
            f"'{word}' is no model and no saved folder",
            ["zoo:vgg19, torchvision:resnet18, timm:..., hf:<config folder>, path/to/file.py:factory"],
            f"did you mean 'zoo:{word}'?" if word in zoo else ways,
        )
    return sources[kind](name, arguments)


def is_file_word(word: str) -> bool:
    """Whether building a model by a word runs a file.

    Example:
        >>> is_file_word("net.py:make"), is_file_word("zoo:vgg11")
        (True, False)
    """
    return word.partition(":")[0].endswith(".py")


def split_word(word: str) -> tuple[Path | None, str]:
    """Tell the folder that a word names, if there is one, from what builds its architecture.

    Example:
        >>> import tempfile
        >>> split_word("zoo:vgg11")
        (None, 'zoo:vgg11')
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     split_word(f"{folder}@net.py:make") == (Path(folder), "net.py:make")
        True
    """
    if word and Path(word).is_dir():
        return Path(word), ""
    places = [at for at, letter in enumerate(word) if letter == "@"]
    at = next((at for at in places if at and Path(word[:at]).is_dir()), None)
    return (None, word) if at is None else (Path(word[:at]), word[at + 1 :])


@contextlib.contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as a script can."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _from_file(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise RequestError(f"no such file: {path}", do=f"check the path; it is looked for in {Path.cwd()}")
    # A name of its own: a file may be called like a module that others import, such as types.py.
    alias = f"secateur_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[alias]
        raise RequestError(
            f"{path} does not run: {type(error).__name__}: {error}", do=f"mend it until `python {path}` runs"
        ) from error
    factory = getattr(module, name or "model", None)
    if not callable(factory):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise RequestError(
            f"{path} has no factory '{name or 'model'}'",
            [f"it has: {known}"],
            "write path/to/file.py:factory",
        )
    return factory


def open_model(word: str, arguments: Arguments | None = None) -> Opened:
    """Open a model by its word, or a saved folder with its weights.

    Args:
        word: As for `build`; or a folder that secateur saved, alone or with what builds its architecture:
            "runs/pruned", "runs/pruned@net.py:make".
        arguments: Keyword arguments of the factory; a saved folder knows its own.

    Raises:
        RequestError: The word names nothing.
        CheckpointError: The folder is no saved model, or does not fit its architecture.
        SourceError: Its plan names a file to run, and the word does not.
    """
    given = arguments or {}
    folder, named = split_word(word)
    if folder is None:
        built = build(word, given)
        plan = identity_plan(built.model, word, given)
        return Opened(built.model, plan, word, built.input_shape, built.example_inputs)
    if not Path(folder, PLAN).is_file() and Path(folder, "checkpoints.json").is_file():
        raise CheckpointError(
            f"cannot load {folder}: its training is not finished",
            do="go on with --resume, or name one of its epoch folders",
        )
    plan = load_plan(folder)
    source = named or plan.first.source
    if not source:
        raise CheckpointError(
            f"cannot load {folder}: its plan does not say what builds {plan.first.model}",
            do=f"name it: {folder}@path/to/file.py:factory; or load it in Python: "
            "secateur.load(folder, architecture)",
        )
    if not named and is_file_word(source):
        _refuse_file(folder, word, source)
    try:
        built = build(source, {**_without_values(source, plan.first.source_arguments), **given})
    except RequestError as error:
        raise CheckpointError(
            f"cannot load {folder}: its architecture {source} cannot be built",
            [error.what, *error.context, error.do],
            "run from the folder it was saved from, or use secateur.load(folder, architecture) in Python",
        ) from error
    return Opened(load_model(folder, built.model), plan, source, built.input_shape, built.example_inputs)


def _without_values(source: str, arguments: Arguments) -> Arguments:
    """A plan's arguments without pretrained weights that a library would fetch: the folder has its own."""
    if is_file_word(source):
        return arguments
    return {name: value for name, value in arguments.items() if not (name.startswith("weights") and value)}


def _refuse_file(folder: Path, word: str, source: str) -> NoReturn:
    """Say that a plan names a file, and how the user names it."""
    file = Path(source.partition(":")[0])
    if not source.isprintable():
        raise CheckpointError(f"cannot load {folder}: its plan names {source!r}, which no command could")
    context = ["code runs only from a file that you name yourself"]
    if file.resolve().is_relative_to(folder.resolve()):
        context.append("the file came with the folder")
    raise SourceError(
        f"cannot load {folder}: its plan asks to run {source!r}",
        context,
        f"read the file; if you trust it, name it too: {shlex.quote(f'{word}@{source}')}",
        typed=(word, f"{word}@{source}"),
    )
