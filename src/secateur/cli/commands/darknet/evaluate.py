"""`secateur darknet evaluate`: mean average precision, in all and by class."""

from dataclasses import asdict, dataclass

from secateur.cli.darknet import BatchOptions, NetworkOptions
from secateur.cli.options import MachineOptions
from secateur.cli.terminal import Answer
from secateur.domains.darknet.predict import evaluate_darknet


@dataclass(frozen=True)
class EvaluateOptions:
    """What counts.

    Attributes:
        part: Part of the data set: train, valid or test.
        conf: Smallest confidence, from 0 to 1.
        iou: Overlap above which the less confident box of a class is dropped.
    """

    part: str = "valid"
    conf: float = 0.001
    iou: float = 0.6


def evaluate(
    network: NetworkOptions, scenes: BatchOptions, judging: EvaluateOptions, place: MachineOptions
) -> Answer:
    """Report COCO's mAP@0.5 and mAP@0.5:0.95, and average precision by class.

    Example: secateur darknet evaluate runs/pruned --data digits
    """
    model = network.open(place.device)
    batches = scenes.of(model, judging.part)
    found = evaluate_darknet(model, batches, conf=judging.conf, iou=judging.iou, threads=place.threads)
    return Answer(asdict(found), str(found))
