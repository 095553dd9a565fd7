"""Tasks and data of the user's own, from a file that a word names.

--task own.py:Ages         a class derived from `Task`
--data own.py:faces        a function that returns datasets of PyTorch, or `Parts`
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset, random_split

from secateur.errors import RequestError
from secateur.train.parts import Opening, Part, Parts, generator_of
from secateur.user_code import from_file

VALIDATION, TEST = 0.1, 0.2
"""Shares of the training data that make the parts which are not given."""

_TEST_SEED = 1797
"""The test part is the same whatever the seed of a run."""

PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""The names that the parts go by, in folders, tables and functions."""

_RETURNS = "return Parts, or datasets: one, (train, test), (train, validation, test) or a dict by these names"


def part_named(word: str) -> str | None:
    """The part that a name stands for; None if it stands for none.

    Example:
        >>> part_named("val"), part_named("cats")
        ('validation', None)
    """
    return next((part for part, names in PARTS.items() if word.strip().lower() in names), None)


def parts_of(word: str, opening: Opening) -> Parts:
    """Open the data that a function of the user's returns.

    Args:
        word: "path/to/file.py:function".
        opening: Its options are the function's arguments, and so are `data_dir`, `download` and `seed` where
            the function takes them.

    Raises:
        RequestError: There is no such function, it does not run, or does not return data.
    """
    function = from_file(word, "function", "data")
    try:
        taken = inspect.signature(function)
        known = {name: getattr(opening, name) for name in ("data_dir", "download", "seed")}
        given = {name: value for name, value in known.items() if name in taken.parameters}
        bound = taken.bind(**{**given, **opening.options})
    except TypeError as error:
        options = ", ".join(f"{name}={value}" for name, value in opening.options.items())
        context = [f"it takes {taken}", f"it was given {options or 'nothing'}"]
        raise RequestError(
            f"{word} cannot be called: {error}", context, "pass --data-arg name=value"
        ) from error
    try:
        made = function(*bound.args, **bound.kwargs)
    except RequestError:
        raise
    except Exception as error:
        what = f"{word} does not run: {type(error).__name__}: {error}"
        raise RequestError(what, do="mend it until it returns the data") from error
    return as_parts(word, made, opening.seed)


def as_parts(name: str, made: Any, seed: int = 0) -> Parts:
    """Make parts of what a user has as data.

    What is not given is drawn from the training data: a fifth to test, always the same, and a tenth of the
    rest to validate, by the seed.

    Args:
        name: What the data are called.
        made: `Parts`, one dataset, two (train, test), three (train, validation, test), or a dict of them.
        seed: Of the draw.

    Raises:
        RequestError: It is something else, or a part is empty.

    Example:
        >>> import torch
        >>> numbers = torch.utils.data.TensorDataset(torch.arange(100.0), torch.arange(100))
        >>> parts = as_parts("numbers", numbers)
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (72, 8, 20)
    """
    if isinstance(made, Parts):
        return made
    found = _named(name, made)
    for part in ("test", "validation"):
        if part not in found:
            rest, drawn = _drawn(name, found["train"], part, seed)
            found |= {"train": rest, part: drawn}
    for part, dataset in found.items():
        if len(dataset) == 0:
            raise RequestError(f"the {part} part of {name} is empty", do=_RETURNS)
    return Parts(name, **found)


def _named(name: str, made: Any) -> dict[str, Any]:
    """What was given, by the names of parts."""
    if isinstance(made, Mapping):
        found = {part_named(str(word)) or str(word): held for word, held in made.items()}
    elif isinstance(made, (tuple, list)) and 1 <= len(made) <= 3:
        words = {1: ("train",), 2: ("train", "test"), 3: ("train", "validation", "test")}[len(made)]
        found = dict(zip(words, made, strict=True))
    elif hasattr(made, "train") and hasattr(made, "validation"):
        found = {part: getattr(made, part) for part in PARTS if hasattr(made, part)}
    else:
        found = {"train": made}
    unknown = sorted(found.keys() - PARTS.keys())
    if unknown or "train" not in found:
        raise RequestError(f"{name} returns {', '.join(found) or 'nothing'}", do=_RETURNS)
    for part, held in found.items():
        sized = (
            hasattr(held, "__len__") and hasattr(held, "__getitem__") and not isinstance(held, (str, bytes))
        )
        if not isinstance(held, Part) and not sized:
            what = f"{name} returns a {type(held).__name__} as its {part} part, no dataset with a length"
            raise RequestError(what, do=_RETURNS)
    return found


def _drawn(name: str, train: Any, part: str, seed: int) -> "tuple[Dataset[Any], Dataset[Any]]":
    """Take a share of the training data away."""
    count = round((TEST if part == "test" else VALIDATION) * len(train))
    if not hasattr(train, "__getitem__") or not 0 < count < len(train):
        what = f"{name} has no {part} part, and its {len(train)} training samples are too few to draw one"
        raise RequestError(what, do=_RETURNS)
    key = (_TEST_SEED,) if part == "test" else (seed,)
    rest, drawn = random_split(train, [len(train) - count, count], generator_of(*key))
    return rest, drawn
