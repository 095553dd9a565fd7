"""Where and how a network runs: the device, the precision, threads, one process."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from secateur.errors import RequestError
from secateur.extras import extra

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def choose_device(device: str) -> torch.device:
    """Find the device that a word means.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        RequestError: The device is unknown or absent.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    kind, _, index = device.partition(":")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = next(name for name in ("cuda", "mps", "cpu") if present[name])
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in present or (index and not (index.isdecimal() and kind == "cuda")):
        raise RequestError(
            f"unknown device '{device}'", ["known: auto, cpu, cuda, cuda:N, mps"], "pass one of them"
        )
    if not present[kind] or int(index or 0) >= count:
        raise RequestError(
            f"device '{device}' was asked for, but torch does not see it", do="pass cpu or auto"
        )
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device(kind)


def require_one_process() -> None:
    """Refuse to train where a launcher started several processes: each would train the whole run.

    Raises:
        RequestError: `WORLD_SIZE` is above 1, or a process group of several ranks is there.

    Example:
        >>> require_one_process()
    """
    word = os.environ.get("WORLD_SIZE", "1")
    count = int(word) if word.isdecimal() and len(word) < 10 else 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = max(count, torch.distributed.get_world_size())
    if count > 1:
        raise RequestError(
            f"training runs in one process and this is one of {count}, so start it without torchrun"
        )


def make_fabric(device: str, precision: str) -> "Fabric":
    """Set up Lightning Fabric for one device.

    Args:
        device: As for `choose_device`.
        precision: One of Fabric's names, or "auto": bf16 or 16 bits on a GPU, 32 elsewhere.

    Returns:
        The set-up.

    Raises:
        RequestError: The device is unknown or absent, or cannot do the precision.
    """
    chosen = choose_device(device)
    if precision == "auto" and chosen.type != "cuda":
        precision = "32-true"
    elif precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if precision == "16-mixed" and chosen.type == "cpu":
        raise RequestError("precision 16-mixed was asked for on the cpu", do="pass bf16-mixed or 32-true")
    with extra("train", "training runs"):
        from lightning_fabric import Fabric  # seconds of imports, which --help does not need

    options: Any = {"devices": 1 if chosen.index is None else [chosen.index], "precision": precision}
    return Fabric(accelerator=chosen.type, **options)


@contextlib.contextmanager
def surroundings(fabric: "Fabric", threads: int | None) -> Iterator[None]:
    """Give back torch's random state and number of threads as they were."""
    before = torch.get_num_threads()
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
