"""Layers and channels: residual blocks go first, then channels of what is left, as `slim` does it.

References:
    tanluren/yolov3-channel-and-layer-pruning, "layer and channel pruning"; a third of the blocks is about
    its 8 of YOLOv3's 23.
"""

from secateur.domains.darknet.strategies.slim import SLIM
from secateur.domains.darknet.strategy import Strategy, strategies

strategies.add(
    "layers+channels",
    Strategy(
        "residual blocks by mean scale, then channels as slim",
        channels=SLIM,
        takes_blocks=True,
        block_share=1 / 3,
    ),
)
