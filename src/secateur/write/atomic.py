"""Files and folders that appear whole or not at all.

Everything is written under a temporary name in the same folder, flushed to the disk, and then renamed.
Renaming within one file system is atomic (POSIX `rename`), so a run that is killed at any moment, or a disk
that fills up, leaves what was there before or the complete new thing, never a half of it.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from secateur.errors import SecateurError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    temporary = _temporary_sibling(target)
    with explained(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
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
    temporary = _temporary_sibling(target)
    with explained(target):
        try:
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


def _temporary_sibling(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
