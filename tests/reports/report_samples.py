"""Reports that the tests of the formats share."""

from secateur.reports.content import (
    AccuracySplit,
    Curve,
    GammaHistory,
    GroupRow,
    LayerRow,
    ModelRow,
    Report,
    VerdictRow,
)

EMPTY = Report("VGG-11 on digits", "", "", "")
FULL = Report(
    title="VGG-11 on digits",
    created="2026-01-31 12:00",
    command="secateur demo --seed 0",
    model="zoo:vgg11",
    requested_ratio=0.7,
    achieved_ratio=0.6984,
    stages=(
        ModelRow("dense", 0.98611, 9_228_362, 152_900_000, 36_940_112, 3.412, validation_accuracy=0.98958),
        ModelRow("pruned", 0.94167, 811_034, 30_110_000, 3_269_332, 1.204, "before fine-tuning"),
        ModelRow("finetuned", 0.98333, 811_034, 30_110_000, 3_269_332, 1.204, "", 0.98611),
    ),
    layers=(
        LayerRow("features.0", "Conv2d", 64, 20, 1728, 540, 1_769_472, 552_960),
        LayerRow("classifier", "Linear", 10, 10, 5130, 210, 5120, 200),
    ),
    groups=(
        GroupRow("features.0", 64, 20, "pruned"),
        GroupRow("classifier", 10, 10, "protected", "output of the model"),
    ),
    curves=(
        Curve("dense", (1, 2, 3), (1.2, 0.7, 0.5), (0.6, 0.8, 0.9), (0.59, 0.83, 0.81)),
        Curve("sparse", (1, 2, 3), (0.9, 0.6, 0.4), (0.7, 0.8, 0.9), (0.6, 0.7, 0.8), (0.1, 0.4, 0.7)),
    ),
    gamma=GammaHistory((0.0, 0.5, 1.0), ((3, 61), (30, 34), (45, 19)), threshold=0.043),
    verdict=VerdictRow("exact", 1.284e-15, 57),
    split=AccuracySplit("digits", 1149, 288, 360),
    notes=("Latency is the median of 50 runs.",),
    written=(("plan", "runs/demo/half/plan.json"), ("this report", "runs/demo/report.html")),
)
# Each optional part of a report with the value that says: not there.
WITHOUT: dict[str, object] = {
    "stages": (),
    "layers": (),
    "groups": (),
    "curves": (),
    "gamma": None,
    "verdict": None,
    "split": None,
    "notes": (),
    "written": (),
    "command": "",
}
