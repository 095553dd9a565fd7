"""Darknet's `.data` and `.names`: which images a network is trained on, and what its classes are called.

    .data     key=value lines: classes, train, valid, names, backup
    .names    one class a line, in the order of their numbers

Relative paths start from the folder of the file that they stand in, so that a data set can be moved; what is
not there is looked for from the working directory, as Darknet does. In this order, as several data sets have
a `train.txt`, and the one beside its own `.data` file is meant.

What files say is believed within bounds only: a path may be one that no file system takes, a number of
classes one that no memory holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.domains.darknet.cfg import parse_options
from secateur.errors import RequestError
from secateur.write.atomic import atomic_write

__all__ = [
    "MOST_CLASSES", "DataFile", "is_file", "is_there", "read_data", "read_names", "resolve", "write_data",
    "write_names",
]  # fmt: skip

MOST_CLASSES = 2**16
"""Class numbers of label files lie below this; the largest data sets have some twenty thousand."""


@dataclass(frozen=True)
class DataFile:
    """A `.data` file.

    Attributes:
        path: Where it was read from.
        values: What it says, as text by key.
    """

    path: Path
    values: Mapping[str, str]

    @property
    def classes(self) -> int:
        """How many classes there are.

        Raises:
            RequestError: The file does not say so, or not in an integer below `MOST_CLASSES`.
        """
        text = self._value("classes")
        if not text.isdecimal() or len(text) > 9 or int(text) >= MOST_CLASSES:
            what = f"{self.path}: classes={text[:60]} is no integer from 0 to {MOST_CLASSES - 1}"
            raise RequestError(what, do="write how many classes there are")
        return int(text)

    def find(self, key: str) -> Path:
        """The file or folder that a key names.

        Args:
            key: Such as "train", "valid" or "names".

        Returns:
            The path beside the `.data` file if there is something, else the one from the working directory.

        Raises:
            RequestError: The key is missing, or there is nothing at either place.
        """
        text = self._value(key)
        found = resolve(text, self.path)
        if is_there(found):
            return found
        tried = [f"not there: {place}" for place in dict.fromkeys((found, Path(text)))]
        do = "mend the path: it counts from the .data file, then from the working directory"
        raise RequestError(f"{self.path}: {key}={text} does not exist", tried, do)

    def _value(self, key: str) -> str:
        if key not in self.values:
            known = ", ".join(self.values) or "nothing"
            raise RequestError(f"{self.path} names no {key}", [f"it names {known}"], f"add a line {key}=...")
        return self.values[key]


def resolve(text: str, stands_in: Path) -> Path:
    """Find what a path in a file means: beside that file, or from the working directory if only there."""
    beside = stands_in.parent / text
    return beside if is_there(beside) or not is_there(Path(text)) else Path(text)


def is_there(path: Path) -> bool:
    r"""Whether there is a file or folder; a path that no file system takes is none.

    Example:
        >>> is_there(Path(".")), is_there(Path("a\0b")), is_there(Path("a" * 5000))
        (True, False, False)
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file; a path that no file system takes is none."""
    return is_there(path) and path.is_file()


def read_data(path: Path | str) -> DataFile:
    """Read a `.data` file.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        RequestError: There is no such file, or a line is no option.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     names = write_names(["zero", "one"], Path(folder, "digits.names"))
        ...     data = write_data({"classes": 2, "names": names.name}, Path(folder, "digits.data"))
        ...     read_data(data).classes, read_names(read_data(data).find("names"))
        (2, ['zero', 'one'])
    """
    path = Path(path)
    return DataFile(path, parse_options(_read(path, "data file"), path.name))


def write_data(values: Mapping[str, object], path: Path | str) -> Path:
    """Write a `.data` file.

    Args:
        values: What it shall say; paths count from the file, then from the working directory.
        path: The file.

    Returns:
        The path.
    """
    atomic_write(path, "".join(f"{key} = {value}\n" for key, value in values.items()).encode())
    return Path(path)


def read_names(path: Path | str) -> list[str]:
    """Read the classes of a `.names` file; empty lines at the end do not count.

    Raises:
        RequestError: There is no such file, it is empty, or a line between others is empty, which puts the
            numbers of the classes behind it in doubt.
    """
    lines = [line.strip() for line in _read(Path(path), "names file").rstrip().splitlines()]
    if not lines:
        raise RequestError(f"{path} names no class", do="write one class a line")
    if len(lines) > MOST_CLASSES:
        what = f"{path} names {len(lines):,} classes"
        raise RequestError(what, [f"allowed: {MOST_CLASSES:,}"], "pass a file with one class a line")
    if "" in lines:
        what = f"{path}:{lines.index('') + 1}: the line is empty"
        raise RequestError(what, do="remove it, or name the class: the line's number is the class's number")
    return lines


def write_names(names: Sequence[str], path: Path | str) -> Path:
    """Write a `.names` file, one class a line; returns the path."""
    atomic_write(path, "".join(f"{name}\n" for name in names).encode())
    return Path(path)


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RequestError(f"cannot read the {what} {path}: {reason}", do="check the name") from error
