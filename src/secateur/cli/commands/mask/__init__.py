"""Mask weights, report, bake masks in, and make real cuts of them."""
