"""The resident size of this process, now and at its peak; Linux only."""

from pathlib import Path


def resident_bytes() -> int:
    """The resident size now, mapped files included."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The largest resident size since `forget_peak`, mapped files included."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Start a new peak."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system tells no {key}")
