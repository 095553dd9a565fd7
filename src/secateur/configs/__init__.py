"""Configs: which fields of the config that a model is built from say which widths of it."""
