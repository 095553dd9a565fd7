"""Image classification: the data sets by name, in three parts, as batches.

`load("fashion-mnist")` reads the data set, splits its training data into training and validation by a seed,
and normalises with the statistics of the training part.
"""

from pathlib import Path

from secateur.domains.classification.images import DataSpec, Images, Splits
from secateur.domains.classification.known import datasets
from secateur.domains.classification.splits import split

__all__ = ["DataSpec", "Images", "Splits", "datasets", "load"]


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    download: bool = False,
    image_size: int | None = None,
    validation: float | None = None,
    seed: int = 0,
) -> Splits:
    """Load a data set by name.

    Args:
        name: A registered name: "digits", "fashion-mnist", "mnist", "cifar10", "cifar100" or "fake".
        data_dir: Where its files are; None searches the places where packages install them.
        download: Fetch missing files into `data_dir`. Never done unasked.
        image_size: Resize the images to this many pixels; None keeps their size.
        validation: Share of the training data to choose the best epoch by; None takes the data set's own, 10
            % (digits: 25 %, so that 60 % train, 20 % validate and 20 % test).
        seed: Seeds the split. The test part does not depend on it.

    Returns:
        Training, validation and test part.

    Raises:
        RequestError: Unknown name, missing folder, wrong files, impossible share.
        CheckpointError: A file is truncated or foreign.

    Example:
        >>> print(load("digits"))
        digits: 1,079 train + 359 validation + 359 test images of 1 x 8 x 8, 10 classes
    """
    read = datasets[name]
    raw = read(Path(data_dir) if data_dir is not None else None, download)
    return split(name, raw, validation=validation, image_size=image_size, seed=seed)
