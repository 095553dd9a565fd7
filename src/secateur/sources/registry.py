"""The registry of sources, and what a source returns."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

from torch import nn

from secateur.errors import RequestError, SecateurError
from secateur.registry import Registry

Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Built:
    """A model as its source built it.

    Attributes:
        model: The module.
        input_shape: Shape of its usual input, batch of one; None where the source does not know.
        example_inputs: Inputs that are no single float tensor, such as token ids by keyword.
    """

    model: nn.Module
    input_shape: tuple[int, ...] | None = None
    example_inputs: Any = None


Source: TypeAlias = Callable[[str, Arguments], Built]

sources: Registry[Source] = Registry("model source", "secateur.sources.kinds")


def require_package(name: str, install: str) -> ModuleType:
    """Import an optional package.

    Raises:
        RequestError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RequestError(f"package {name} is not installed", do=f"pip install {install}") from error


def call_factory(factory: Callable[..., Any], word: str, arguments: Arguments) -> nn.Module:
    """Build a model, with errors that name the word.

    Raises:
        RequestError: The arguments do not fit, or the factory returned no module.
    """
    try:
        model = factory(**arguments)
    except SecateurError:
        raise
    except (Exception, SystemExit) as error:
        named = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        raise RequestError(
            f"cannot build {word}: {named}{error}",
            [f"arguments: {dict(arguments)}"],
            "pass what the factory takes, with --arg key=value",
        ) from error
    if not isinstance(model, nn.Module):
        raise RequestError(f"{word} returned {type(model).__name__}", do="return a torch.nn.Module")
    return model
