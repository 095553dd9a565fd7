"""Layers: whole residual blocks go, those with the smallest mean |gamma| before the shortcut first.

References:
    tanluren/yolov3-channel-and-layer-pruning, "layer pruning".
"""

from secateur.domains.darknet.strategy import Strategy, strategies

strategies.add("layers", Strategy("whole residual blocks, by mean scale", takes_blocks=True))
