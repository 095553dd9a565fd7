"""Files and folders that appear whole or not at all.

Everything is written under a temporary name in the same folder, flushed to the disk, and then renamed.
Renaming within one file system is atomic (POSIX `rename`), so a run that is killed at any moment, or a disk
that fills up, leaves what was there before or the complete new thing, never a half of it.

A temporary name says whose it is: machine, process and when that was started. What a killed run left behind
is removed by the next one that writes the same name, and what a living one is writing never is.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from secateur.errors import SecateurError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}\.tmp(\.[^.]+)?")
_DEAD = ("Z", "X")
"""States of a process that is over and that nobody has asked about yet."""

_in_use: set[str] = set()
"""Temporary names that threads of this process are writing."""


def atomic_write(path: Path | str, content: bytes | Callable[[Path], None]) -> None:
    """Write one file so that a reader sees the old content or the new one.

    Missing parent folders are made. A symbolic link is followed, its target is replaced.

    Args:
        path: The file to write or replace.
        content: The bytes, or a function that writes the file whose path it is given (a temporary name in the
            same folder, with the same suffix, for writers that choose their format by it).

    Raises:
        SecateurError: The file cannot be written (disk full, no permission); the old file is untouched and
            the temporary one is gone.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(Path(folder, "plan.json"), b"{}")
        ...     atomic_write(Path(folder, "plan.json"), lambda path: path.write_text("[]"))
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('plan.json', '[]')]
    """
    target = Path(os.path.realpath(path))
    with explained(target), _temporary_sibling(target) as temporary:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target.parent, target)
            temporary.touch()
            mode = temporary.stat().st_mode
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                content(temporary)
            temporary.chmod(mode)  # some writers make theirs for the owner alone
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Fill a new folder so that it appears under its name only when it is complete.

    Args:
        path: The folder to make; it may not exist yet, because a folder that has content cannot be replaced
            atomically. Missing parents are made.

    Yields:
        The temporary folder to fill. When the block ends without an error everything in it is flushed to the
        disk and it is renamed to `path`; otherwise it is deleted.

    Raises:
        SecateurError: `path` exists, or the disk is full, or the folder may not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with atomic_folder(Path(parent, "epoch-0001")) as folder:
        ...         atomic_write(folder / "state.json", b"{}")
        ...         seen_too_early = Path(parent, "epoch-0001").exists()
        ...     seen_too_early, Path(parent, "epoch-0001", "state.json").exists()
        (False, True)
    """
    target = Path(os.path.realpath(path))
    if target.exists():
        raise SecateurError(f"{path} exists already", ["a folder is never replaced"], "choose another name")
    with explained(target), _temporary_sibling(target) as temporary:
        try:
            remove_leftovers(target.parent, target)
            temporary.mkdir(parents=True)
            yield temporary
            for entry in [*temporary.rglob("*"), temporary]:
                _flush(entry)
            temporary.rename(target)
            _flush(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a message that says what to do.

    Args:
        path: The file or folder that is being written, for the message.

    Raises:
        SecateurError: In place of every `OSError` of the block.

    Example:
        >>> with explained(Path("half")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        secateur.errors.SecateurError: no space to write half: No space left on device
          nothing was replaced, the unfinished file is deleted
          free some space or choose another disk, and run again
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        kept = "nothing was replaced, the unfinished file is deleted"
        if error.errno in _NO_SPACE:
            do = "free some space or choose another disk, and run again"
            raise SecateurError(f"no space to write {path}: {reason}", [kept], do) from error
        do = "choose a place that you may write to"
        raise SecateurError(f"cannot write {path}: {reason}", [kept], do) from error


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Make a folder for as long as a block runs; those of killed runs are removed first.

    Args:
        path: Where it would lie if it were to stay; it gets a temporary name beside that.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent, scratch_folder(Path(parent, "states")) as folder:
        ...     folder.is_dir(), folder.parent == Path(parent)
        (True, True)
    """
    target = Path(os.path.realpath(path))
    with explained(target), _temporary_sibling(target) as temporary:
        remove_leftovers(target.parent, target)
        temporary.mkdir(parents=True)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def place(made: Path, target: Path, *, overwrite: bool = False) -> None:
    """Give a finished file or folder its name.

    A file replaces another one atomically. A folder takes the place of an empty one; one with content is
    moved aside first, and back if the new one cannot be moved.

    Args:
        made: What is finished, in a scratch folder beside the target.
        target: Its name to be.
        overwrite: Replace what is there; of a folder, what the new one has, too.

    Raises:
        SecateurError: What is there is not to be replaced, or it holds files that the new one does not have.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     (Path(parent) / "half").mkdir()
        ...     with scratch_folder(Path(parent, "half")) as scratch:
        ...         (scratch / "half").mkdir()
        ...         place(scratch / "half", Path(parent, "half"))
        ...     [one.name for one in Path(parent).iterdir()]
        ['half']
    """
    for entry in [*made.rglob("*"), made]:
        _flush(entry)
    kept = sorted(_names(target) - _names(made)) if target.is_dir() and made.is_dir() else []
    if kept:
        what = f"{target} holds {', '.join(kept[:3])}, which the new folder does not have"
        raise SecateurError(what, ["they would be lost"], "remove them, or choose another name")
    is_there = any(target.iterdir()) if target.is_dir() else target.exists()
    if is_there and not overwrite:
        raise SecateurError(f"{target} exists already", do="choose another name, or ask to overwrite it")
    if is_there and target.is_dir():
        aside = made.with_name(f"{made.name}.before")
        target.rename(aside)
        try:
            made.rename(target)
        except OSError:
            aside.rename(target)
            raise
    else:
        made.replace(target)
    _flush(target.parent)


def _names(folder: Path) -> set[str]:
    """Of all files in a folder, from there; what Python compiles of them does not count."""
    found = (one.relative_to(folder) for one in folder.rglob("*") if not one.is_dir())
    return {one.as_posix() for one in found if "__pycache__" not in one.parts}


def leftovers(folder: Path, target: Path | None = None) -> list[Path]:
    """What killed runs of this machine left half-written in a folder.

    Args:
        folder: Where to look; it may be missing.
        target: Only what would have become this file or folder; None takes everything.
    """
    found: list[Path] = []
    try:
        entries = list(folder.iterdir())
    except OSError:  # missing, or it may be written and not listed
        return found
    for entry in entries:
        name = _TEMPORARY.fullmatch(entry.name)
        if name is None or (target is not None and (name[1], name[5] or "") != (target.stem, target.suffix)):
            continue
        if name[2] == _machine() and not _is_written(entry.name, int(name[3]), name[4]):
            found.append(entry)
    return found


def remove_leftovers(folder: Path, target: Path | None = None) -> None:
    """Remove what `leftovers` finds; what may not be removed stays."""
    for entry in leftovers(folder, target):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink()


@contextlib.contextmanager
def _temporary_sibling(target: Path) -> Iterator[Path]:
    """A name beside the target that says whose it is, marked as in use."""
    owner = f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}-{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.stem}.{owner}.tmp{target.suffix}")
    _in_use.add(temporary.name)
    try:
        yield temporary
    finally:
        _in_use.discard(temporary.name)


def _machine() -> str:
    """Where a number of a process means something: this machine, and this container on it."""
    space = ""
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(f"{socket.gethostname()} {space}".encode(), digest_size=4).hexdigest()


def _is_written(name: str, process: int, started: str) -> bool:
    """Whether somebody who lives is writing a temporary file."""
    if process == os.getpid():
        return name in _in_use
    if _started(os.getpid()) is not None:
        return _started(process) == started
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _started(process: int) -> str | None:
    """When a process was started, in ticks since the machine was; None where it is over or nobody says."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if len(words) < 20 or words[0] in _DEAD else words[19]


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
