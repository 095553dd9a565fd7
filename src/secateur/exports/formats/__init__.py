"""Formats: one module each, which registers how a file is written and what reads it."""
