"""Kinds of evidence, one module each."""
