"""The request in the words of the command line: the registered budgets and the fields of `secateur.Ask`.

What is a mapping in Python is written as 'layer4.*=0.8', with commas between or one option for each.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from secateur.asking import Ask
from secateur.asking.words import Words, explained
from secateur.cli.flatten import as_amount
from secateur.cli.options import model_arguments
from secateur.errors import RequestError
from secateur.score import Criterion, choose
from secateur.score.aggregate import aggregates
from secateur.score.criterion import Scorer, criteria
from secateur.score.normalise import normalisers
from secateur.select.budget import budgets


@dataclass(frozen=True)
class CriterionOptions:
    """What scores channels.

    Attributes:
        option: Option of the criterion, such as n=1.5 of ln; may be repeated.
    """

    criterion: Annotated[
        str | None,
        typer.Option(help=f"How channels are scored: {', '.join(criteria)}. Default: as data allows."),
    ] = None
    option: tuple[str, ...] = ()
    aggregate: Annotated[
        str | None, typer.Option(help=f"How the layers of a group are joined: {', '.join(aggregates)}.")
    ] = None
    normalise: Annotated[
        str | None, typer.Option(help=f"How groups are made comparable: {', '.join(normalisers)}.")
    ] = None

    def choose(self) -> str | Scorer | Criterion | None:
        """The criterion, as `secateur.Ask` takes it."""
        options = model_arguments(self.option, "--option")
        if self.criterion is None and not (options or self.aggregate or self.normalise):
            return None
        return choose(self.criterion or "l2", aggregate=self.aggregate, normalise=self.normalise, **options)


_HINTS = {**get_type_hints(Ask), **{word: budget.takes for word, budget in budgets.items()}}
_KINDS = {word: _HINTS[word] for word in dict.fromkeys([*Words.__annotations__, *explained()])}
"""What each word takes in Python, in the order of `Words`."""


def _mapped(kind: Any) -> Any:
    """What a mapping that a word may be maps to; None if it may be none."""
    held = [one for one in (kind, *get_args(kind)) if get_origin(one) is Mapping]
    return get_args(held[0])[1] if held else None


def _help(word: str, text: str) -> str:
    """What a word means, in the notation of the command line."""
    text = re.sub(r'\{"([^"]+)": ([^}]+)\}', r"'\1=\2'", text)
    text = re.sub(r", (or a )?modules? or parameters?( of the model)?", "", text)
    if _mapped(_KINDS[word]) is not None:
        is_indices = get_origin(_mapped(_KINDS[word])) is Sequence
        return f"{text} By group: " + ("'stem=0,2,5'." if is_indices else "'stem=0.5,layer4.*=0.8'.")
    many = any(get_origin(one) in (Sequence, Collection) for one in get_args(_KINDS[word]))
    return f"{text} May be repeated." if many else text


AskOptions = make_dataclass(
    "AskOptions",
    [(word, kind, explained()[word][1]) for word, kind in _KINDS.items()],
    namespace={
        "__doc__": "What is asked for.\n\nAttributes:\n"
        + "".join(f"    {word}: {_help(word, explained()[word][0])}\n" for word in _KINDS)
    },
    frozen=True,
)
"""An option for each word of a request; a budget or a field that is added is one too."""


def all_but(*words: str) -> tuple[str, ...]:
    """Every word of a request but some."""
    return tuple(word for word in _KINDS if word not in words)


def read_words(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Read the words of a request as Python takes them; those that were not given are left out.

    Args:
        asked: What was typed after each.

    Raises:
        RequestError: A word takes pairs, and what was typed is none.

    Example:
        >>> read_words({"ratio": 0.5, "min_keep": "stem=25%", "protect": ("fc,head",), "keep": ("a=0,2",)})
        {'ratio': 0.5, 'min_keep': {'stem': '25%'}, 'protect': ['fc', 'head'], 'keep': {'a': [0, 2]}}
    """
    return {word: _read(word, given) for word, given in asked.items() if given not in (None, ())}


def _read(word: str, given: Any) -> Any:
    value, is_many = _mapped(_KINDS[word]), isinstance(given, tuple)
    if value is not None and (is_many or "=" in str(given)):
        pairs = [pair for one in (given if is_many else [given]) for pair in re.split(r",(?=[^,]*=)", one)]
        return dict(_pair(word, pair, is_indices=get_origin(value) is Sequence) for pair in pairs)
    if is_many:
        return [name for one in given for name in re.split(r",(?![^\[]*\])", one)]
    return given


def _pair(word: str, pair: str, *, is_indices: bool) -> tuple[str, Any]:
    pattern, _, value = pair.strip().rpartition("=")
    if not pattern:
        what = "indices" if is_indices else "share"
        raise RequestError(f"{_option(word)} is '{pair}'", do=f"write it as pattern={what}")
    if not is_indices:
        return pattern, as_amount(value)
    try:
        return pattern, json.loads(f"[{value.strip('[] ')}]")
    except ValueError as error:
        what = f"{_option(word)} is '{pair}'"
        raise RequestError(what, do="write indices with commas, such as 'layer1.0=0,2,5'") from error


def _option(word: str) -> str:
    return f"--{word.replace('_', '-')}"
