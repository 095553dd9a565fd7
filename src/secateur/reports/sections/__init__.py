"""Sections: one module each, which says what of a report it shows."""

from collections.abc import Callable

from secateur.registry import Registry
from secateur.reports.content import Report
from secateur.reports.section import Section

registered: Registry[Callable[[Report], Section | None]] = Registry("section", "secateur.reports.sections")
