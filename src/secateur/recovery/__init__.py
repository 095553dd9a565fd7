"""Recover: make a cut model better without labels."""

from secateur.recovery.step import (
    MEMORY_BYTES,
    SECONDS,
    Recovered,
    Recovery,
    Subject,
    choose,
    recover,
    say_on_terminal,
    table,
)

__all__ = [
    "MEMORY_BYTES",
    "SECONDS",
    "Recovered",
    "Recovery",
    "Subject",
    "choose",
    "recover",
    "say_on_terminal",
    "table",
]
