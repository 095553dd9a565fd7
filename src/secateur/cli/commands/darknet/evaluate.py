"""`secateur darknet evaluate`: mean average precision, in all and by class."""

from dataclasses import asdict

from secateur.cli.commands.darknet import verbs
from secateur.cli.darknet import (
    BatchSize,
    CfgWord,
    Conf,
    DataWord,
    DataWords,
    Format,
    Images,
    Iou,
    Part,
    Size,
    Weights,
    input_of,
    open_network,
    plain_batches,
)
from secateur.cli.options import AsJson, Device, Seed, Threads, emit
from secateur.domains.darknet.predict import evaluate_darknet


@verbs("evaluate")
def evaluate(
    cfg: CfgWord,
    weights: Weights = None,
    data: DataWord = "digits",
    format: Format = "yolo",
    images: Images = "1000,250",
    part: Part = "valid",
    size: Size = None,
    batch_size: BatchSize = 16,
    conf: Conf = 0.001,
    iou: Iou = 0.6,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Report COCO's mAP@0.5 and mAP@0.5:0.95, and average precision by class.

    Example: secateur darknet evaluate runs/pruned --data digits
    """
    model = open_network(cfg, weights, device)
    words = DataWords(data, format, images, seed)
    batches = plain_batches(words, part, input_of(model, size), batch_size)
    found = evaluate_darknet(model, batches, conf=conf, iou=iou, threads=threads)
    emit(asdict(found), str(found), as_json=as_json)
