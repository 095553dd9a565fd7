"""Slim: every layer, one global threshold, and a floor for each layer.

The floor lets the threshold go beyond its ceiling: a layer of small scales is thinned out, never emptied.

References:
    PengyiZhang/SlimYOLOv3 (Zhang et al., "SlimYOLOv3: Narrower, Faster and Better for Real-Time UAV
    Applications", ICCV workshops 2019, section 3.3, https://arxiv.org/abs/1907.11093): global threshold, a
    least share of channels kept a layer, the union over shortcuts; its `layer_keep` is 0.01.
"""

from secateur.domains.darknet.strategy import ChannelRule, Strategy, strategies

SLIM = ChannelRule(takes=lambda group: True, floor=0.01)
"""Also the channels of `layers+channels`."""

strategies.add("slim", Strategy("every layer, with a floor for each", channels=SLIM))
