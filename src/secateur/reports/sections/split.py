"""How accuracy was measured: which images trained, which chose, which only report."""

from secateur.reports.content import AccuracySplit, Report
from secateur.reports.section import Portion, Section
from secateur.reports.sections import registered


@registered("split")
def show_split(report: Report) -> Section | None:
    """A bar of the three parts, and what follows for the accuracies."""
    split = report.split
    if split is None:
        return None
    images = (
        f"{split.data_set}: {split.train_images:,} images train, {split.validation_images:,} validate, "
        f"{split.test_images:,} test."
    )
    if split.chosen_on == split.reported_on:
        use = (
            f"The {split.chosen_on} images both chose the checkpoint of every stage and report its accuracy, "
            "so the reported accuracy flatters: it is no estimate for new images."
        )
    else:
        use = (
            f"The {split.chosen_on} images chose the checkpoint of every stage; the {split.reported_on} "
            f"images chose nothing and only report. The {split.reported_on} accuracy is the one to quote."
        )
    parts = (
        _part(split, "train", split.train_images),
        _part(split, "validation", split.validation_images),
        _part(split, "test", split.test_images),
    )
    return Section("split", "How accuracy was measured", (images, use), parts=parts, place=20)


def _part(split: AccuracySplit, name: str, images: int) -> Portion:
    fits = "fit the weights" * (name == "train")
    chooses = "choose the checkpoint" * (name == split.chosen_on)
    reports = ("report" if chooses or fits else "only report") * (name == split.reported_on)
    return Portion(
        name, images, " and ".join(use for use in (fits, chooses, reports) if use) or "are not used"
    )
