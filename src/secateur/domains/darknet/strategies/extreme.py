"""Extreme: every layer, with one mask for all layers that shortcuts join.

Upstream gives a residual group the mask of its first layer; that is `merge="first"`. By default a channel
stays that any layer of the group would keep ("union"), which loses least. Upstream also leaves the layers
before an upsampling alone because its code cannot follow them; here they are layers like others.

References:
    coldlarry/YOLOv3-complete-pruning, "extreme pruning"; PengyiZhang/SlimYOLOv3 for the union.
"""

from secateur.domains.darknet.strategy import ChannelRule, Strategy, strategies

strategies.add(
    "extreme",
    Strategy(
        "every layer; one mask for the layers that shortcuts join", channels=ChannelRule(lambda group: True)
    ),
)
