"""Tiny: every layer but those before an upsampling: what upstream does with YOLOv3-tiny.

YOLOv3-tiny has no shortcuts, so for it this is `normal`. In a network that has some, such as a small one of
one's own, the layers that they join are cut together, a channel staying that any of them would keep.

References:
    coldlarry/YOLOv3-complete-pruning, "tiny pruning".
"""

from secateur.domains.darknet.strategy import ChannelRule, Strategy, strategies

strategies.add(
    "tiny",
    Strategy(
        "every layer but those before upsampling; for networks of a few layers",
        channels=ChannelRule(takes=lambda group: not group.before_upsample),
    ),
)
