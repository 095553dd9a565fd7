"""The errors a user can meet.

Every message has one form: what does not fit, with both values; then indented lines of context; the last
line says what to do. The command line prints the message alone and exits with `exit_code`.
"""

from collections.abc import Collection, Iterable
from itertools import islice, product

_MOST_LINES = 20


class SecateurError(Exception):
    """Something that secateur was asked for cannot be done.

    Args:
        what: What does not fit, lower case, with both values.
        context: Lines of detail, printed indented; the first 20 are shown.
        do: What the user can do about it.

    Example:
        >>> print(SecateurError("ratio is 1.5", ["allowed: 0 <= ratio < 1"], "pass a share such as 0.5"))
        ratio is 1.5
          allowed: 0 <= ratio < 1
          pass a share such as 0.5
    """

    exit_code = 1

    def __init__(self, what: str, context: Iterable[str] = (), do: str = "") -> None:
        shown = list(context)
        if len(shown) > _MOST_LINES:
            shown = [*shown[:_MOST_LINES], f"... and {len(shown) - _MOST_LINES} more"]
        lines = [what, *shown, *([do] if do else [])]
        super().__init__("\n  ".join(lines))
        self.what, self.context, self.do = what, tuple(shown), do


class RequestError(SecateurError):
    """The request itself makes no sense: an unknown name, a ratio outside [0, 1), a missing file."""

    exit_code = 2


class MissingExtraError(RequestError):
    """A library that only some work needs is not installed."""


class EmptyCutError(RequestError):
    """The request makes sense, but no channel goes: rounding, floors or protection hold them all."""


class CaptureError(SecateurError):
    """The model could not be recorded."""


class PathError(CaptureError):
    """The model takes another path than in its record."""


class UnstablePathError(PathError):
    """The model takes another path at each run."""


class CutError(SecateurError):
    """The cut model does not have the shapes that the plan predicts, and nothing could mend it."""


class ForeignTensorError(CutError):
    """What was made of a model computes with tensors of the model that it was made of."""


class CheckError(SecateurError):
    """The cut model does not compute what the masked one does."""


class ExportError(SecateurError):
    """A file for another program was not written, or that program does not compute what the model does."""


class SizeError(ExportError):
    """A format cannot leave a size open that the model does; the file is written anew with it fixed."""


class CheckpointError(SecateurError):
    """A file is missing, truncated, foreign, or belongs to another architecture."""


class SourceError(CheckpointError):
    """A saved folder asks to run a file that the user did not name.

    Args:
        what: As for every error, and so are `context` and `do`.
        context: Lines of detail.
        do: What the user can do about it.
        typed: The word that named the folder, and the one that names the file, too.
    """

    def __init__(self, what: str, context: Iterable[str], do: str, typed: tuple[str, str]) -> None:
        super().__init__(what, context, do)
        self.typed = typed


class DataError(SecateurError):
    """Images or labels are missing, cannot be read, or do not fit the classes."""


class BrokenImageWarning(UserWarning):
    """An image could not be read and was left out of its batch."""


class NoEffectWarning(UserWarning):
    """An algorithm ran and changed nothing."""


class UnwrapWarning(UserWarning):
    """A model was taken out of its wrapper."""


class CarryWarning(UserWarning):
    """Some state of an optimizer could not be carried over."""


def prefix_hint(expected: Iterable[str], given: Iterable[str], where: str) -> list[str]:
    """Say of names that they differ from others by a prefix alone, as that of `DataParallel`.

    Args:
        expected: The names of the model.
        given: Other names for the same.
        where: What holds the names without the prefix if the others have one, in words.

    Returns:
        One line; none if the names differ otherwise.

    Example:
        >>> prefix_hint(["fc.weight", "fc.bias"], ["module.fc.weight", "module.fc.bias"], "the model")
        ["names start with 'module.', which those of the model do not (DataParallel adds it): strip it"]
    """
    known, others = set(expected), list(given)
    for name, other in product(islice(known, _TRIED), others[:_TRIED]):
        if other.endswith(f".{name}") and _differ_by(prefix := other.removesuffix(name), known, others):
            why = f" ({_WRAPPERS[prefix]} adds it)" if prefix in _WRAPPERS else ""
            return [f"names start with '{prefix}', which those of {where} do not{why}: strip it"]
        if name.endswith(f".{other}") and _differ_by(prefix := name.removesuffix(other), set(others), known):
            return [f"the names of {where} start with '{prefix}', these do not: add it"]
    return []


_WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}

_TRIED = 200
"""So many names are compared with each other."""


def _differ_by(prefix: str, bare: Collection[str], prefixed: Collection[str]) -> bool:
    """Whether most names are others with a prefix before them."""
    same = sum(name.startswith(prefix) and name.removeprefix(prefix) in bare for name in prefixed)
    return 2 * same > len(prefixed)
