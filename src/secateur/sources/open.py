"""Open a model by its word, or from a folder that secateur saved."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import CheckpointError, RequestError
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
        input_shape: Shape of its usual input, batch of one; None where unknown.
        example_inputs: Inputs that are no single float tensor, such as token ids by keyword.
    """

    model: nn.Module
    plan: Plan
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
    if kind.endswith(".py"):
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
        word: As for `build`, or a folder that secateur saved.
        arguments: Keyword arguments of the factory; a saved folder knows its own.

    Raises:
        RequestError: The word names nothing.
        CheckpointError: The folder is no saved model, or does not fit its architecture.
    """
    given = arguments or {}
    if not word or not Path(word).is_dir():
        built = build(word, given)
        plan = identity_plan(built.model, word, given)
        return Opened(built.model, plan, built.input_shape, built.example_inputs)
    if not Path(word, PLAN).is_file() and Path(word, "checkpoints.json").is_file():
        raise CheckpointError(
            f"cannot load {word}: its training is not finished",
            do="go on with --resume, or name one of its epoch folders",
        )
    plan = load_plan(word)
    first = plan
    while first.previous is not None:
        first = first.previous
    if not first.source:
        raise CheckpointError(
            f"cannot load {word}: its plan does not say what builds {first.model}",
            do="load it in Python: secateur.load(folder, architecture)",
        )
    file = Path(first.source.partition(":")[0])
    if file.suffix == ".py" and file.resolve().is_relative_to(Path(word).resolve()):
        raise CheckpointError(
            f"cannot load {word}: its plan asks to run {file}, which lies in the folder itself",
            ["a saved model must not bring code along"],
            "if you trust it, load it in Python: secateur.load(folder, architecture)",
        )
    try:
        built = build(first.source, {**first.source_arguments, **given})
    except RequestError as error:
        raise CheckpointError(
            f"cannot load {word}: its architecture {first.source} cannot be built",
            str(error).split("\n  "),
            "run from the folder it was saved from, or use secateur.load(folder, architecture) in Python",
        ) from error
    return Opened(load_model(word, built.model), plan, built.input_shape, built.example_inputs)
