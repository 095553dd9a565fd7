"""Exports: a network as a file of another program, which is asked at once whether it computes the same.

A format is one module of `formats/`, or of a folder of `secateur.domains`: how a file is written, and a
reader, a script that opens it in a fresh process with the program that it is for (docs/decisions/0016).
"""

from secateur.exports.format import Exported, ExportSubject, Format
from secateur.exports.writing import export, require_exportable

__all__ = ["ExportSubject", "Exported", "Format", "export", "require_exportable"]
