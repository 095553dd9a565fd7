"""Normal: one global threshold; layers that feed a shortcut or an upsampling stay whole.

References:
    coldlarry/YOLOv3-complete-pruning, "normal pruning", after Lam1360/YOLOv3-model-pruning.
"""

from secateur.domains.darknet.strategy import ChannelRule, Strategy, strategies

NORMAL = ChannelRule(takes=lambda group: not group.in_shortcut and not group.before_upsample)
"""Also the groups of `regular`."""

strategies.add(
    "normal",
    Strategy("one global threshold; layers before shortcuts and upsampling stay whole", channels=NORMAL),
)
