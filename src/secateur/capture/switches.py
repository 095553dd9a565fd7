"""The switches of PyTorch under which models are run, put back for all threads alike."""

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


class _Switches:
    """Switches of the whole process that are off while some thread records: the last one puts them back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.log = logging.getLogger("torch._subclasses.fake_tensor")
        self.before = (True, False)

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self.before = torch.backends.mha.get_fastpath_enabled(), self.log.disabled
                torch.backends.mha.set_fastpath_enabled(False)
                self.log.disabled = True
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                torch.backends.mha.set_fastpath_enabled(self.before[0])
                self.log.disabled = self.before[1]


_SWITCHES = _Switches()


@contextmanager
def as_written() -> Iterator[None]:
    """Run models in the precision that they hold, and attention without the fused path of `torch.nn`.

    A cut model that does not run is a normal step of the search; PyTorch's log of it stays silent.
    """
    with _SWITCHES, ExitStack() as stack:
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def recording_context() -> Iterator[None]:
    """Keep composite operators whole, and the fused attention path and the caller's autocast off."""
    with as_written(), torch.inference_mode():
        yield


@contextmanager
def garbage_waits() -> Iterator[None]:
    """Collect no garbage meanwhile: a pass over all objects of a process can cost more than a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
