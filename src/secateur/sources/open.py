"""Open a model by its word, or from a folder that secateur saved.

Code runs only from a file that the user names. A plan may say that a file built its model; that file is run
when it is named again, behind the folder:

    net.py:make               runs net.py
    runs/pruned               is refused if its plan names a file
    runs/pruned@net.py:make   runs net.py, and fills what its factory returns from the folder
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from secateur.errors import CheckpointError, RequestError, SourceError
from secateur.plans.making import identity_plan
from secateur.plans.plan import Plan
from secateur.sources.registry import Arguments, Built, call_factory, sources
from secateur.user_code import from_file, imports_from, is_file_word
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
        with imports_from(Path(kind).resolve().parent):  # a factory may import, too
            return Built(call_factory(from_file(word, "factory", "model"), word, arguments))
    if not name:
        ways = "name a model in one of these ways, or a folder that secateur saved"
        raise RequestError(
            f"'{word}' is no model and no saved folder",
            [
                "zoo:vgg19, torchvision:resnet18, timm:..., ultralytics:..., hf:<config folder>, "
                "path/to/file.py:factory"
            ],
            f"did you mean 'zoo:{word}'?" if word in zoo else ways,
        )
    return sources[kind](name, arguments)


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


def open_model(word: str, arguments: Arguments | None = None, *, verify: bool = True) -> Opened:
    """Open a model by its word, or a saved folder with its weights.

    Args:
        word: As for `build`; or a folder that secateur saved, alone or with what builds its architecture:
            "runs/pruned", "runs/pruned@net.py:make".
        arguments: Keyword arguments of the factory; a saved folder knows its own.
        verify: Compare saved values with their digests.

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
        built = build(source, {**without_values(source, plan.first.source_arguments), **given})
    except RequestError as error:
        raise CheckpointError(
            f"cannot load {folder}: its architecture {source} cannot be built",
            [error.what, *error.context, error.do],
            "run from the folder it was saved from, or use secateur.load(folder, architecture) in Python",
        ) from error
    model = load_model(folder, built.model, verify=verify)
    return Opened(model, plan, source, built.input_shape, built.example_inputs)


def without_values(source: str, arguments: Arguments) -> Arguments:
    """Arguments without pretrained weights that a library would fetch: the folder has its own.

    Args:
        source: What takes them; a file keeps all.
        arguments: By name.
    """
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
