"""Ultralytics: its networks in, its `.pt` files out, and its trainers without losing the cut.

    result = sc.prune(YOLO("yolo11n.pt"), torch.zeros(1, 3, 640, 640), ratio=0.3, corrections=False)
    sc.export(result, "half.pt", format="ultralytics")
    yolo = YOLO("half.pt")
    yolo.train(trainer=trainer(yolo), data="coco8.yaml", epochs=10)

Ultralytics is imported when one of these is called, not before (docs/decisions/0018).
"""

from secateur.domains.ultralytics.exporting import write as write
from secateur.domains.ultralytics.opening import open_network
from secateur.domains.ultralytics.training import sparsity, trainer

__all__ = ["open_network", "sparsity", "trainer"]
