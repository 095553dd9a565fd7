"""Masks as callbacks of training loops: one module for each, importing its library only when it is used."""
