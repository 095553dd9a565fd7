"""A run's folder says what the run is of, so that it is resumed as what it was or not at all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import RequestError
from secateur.train.checkpoint import read_json
from secateur.write.atomic import atomic_write

OPENING, TRAINING = "slim.json", "training"
"""In a run's folder: what the run is of, and the checkpoints of its trainings."""


def open_run(folder: Path, told: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Write down what a run is of, or make sure that it is the one to be resumed.

    Args:
        folder: The run's folder; made if missing.
        told: Everything that decides the result; it must be JSON.
        resume: Go on with the run that is there, if there is one.
        overwrite: Forget the run that is there.

    Raises:
        RequestError: There is a run that is not to be resumed, or one of other settings.
        CheckpointError: What says so is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     open_run(Path(name), {"ratio": 0.5}, resume=False, overwrite=False)
        ...     open_run(Path(name), {"ratio": 0.5}, resume=True, overwrite=False)
        ...     sorted(path.name for path in Path(name).iterdir())
        ['slim.json']
    """
    path = folder / OPENING
    content = json.dumps(told, indent=1)
    if not path.is_file() or overwrite:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder / TRAINING, ignore_errors=True)
        atomic_write(path, content.encode())
        return
    if not resume:
        do = "resume it (--resume), overwrite it (--overwrite), or name another folder"
        raise RequestError(f"{folder} already holds a run ({OPENING})", do=do)
    asked, held = json.loads(content), read_json(path)
    differing = [
        f"{name}: {held.get(name)} there, {asked.get(name)} asked for"
        for name in dict.fromkeys([*asked, *held])
        if held.get(name) != asked.get(name)
    ]
    if differing:
        do = "ask for the same settings, or name another folder"
        raise RequestError(f"cannot resume {folder} with other settings", differing, do)
