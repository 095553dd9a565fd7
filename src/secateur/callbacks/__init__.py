"""Channels and penalties in other trainers: Lightning, Transformers, Ultralytics, a loop of one's own.

One module for each, importing its library only when it is used; those of masks are in `mask/callbacks`.
"""

from secateur.callbacks.channels import ChannelSteps, become, spread

__all__ = ["ChannelSteps", "become", "spread"]
