"""Regular: as normal, with kept counts that suit hardware: powers of two from 8 to 1024, or a multiple.

References:
    coldlarry/YOLOv3-complete-pruning, "regular pruning".
"""

from dataclasses import replace

from secateur.domains.darknet.strategies.normal import NORMAL
from secateur.domains.darknet.strategy import Strategy, power_of_two, strategies

strategies.add(
    "regular",
    Strategy(
        "as normal, with kept counts rounded up to a power of two from 8 to 1024, or a multiple of round_to",
        channels=replace(NORMAL, rounded=power_of_two),
    ),
)
