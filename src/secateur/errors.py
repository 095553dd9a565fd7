"""The errors a user can meet.

Every message has one form: what does not fit, with both values; then indented lines of context; the last
line says what to do. The command line prints the message alone and exits with `exit_code`.
"""

from collections.abc import Iterable

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


class CheckError(SecateurError):
    """The cut model does not compute what the masked one does."""


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
