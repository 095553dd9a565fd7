"""Open image data by a name or another word."""

from pathlib import Path

from secateur.domains.classification.images import Splits
from secateur.domains.classification.splits import split
from secateur.domains.classification.words import read_word


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    download: bool = False,
    image_size: int | None = None,
    validation: float | None = None,
    flip: bool | None = None,
    seed: int = 0,
) -> Splits:
    """Load a data set by name, or images of your own.

    Args:
        name: A registered name: "digits", "fashion-mnist", "mnist", "cifar10", "cifar100" or "fake"; or a
            folder with a folder for each class, or a CSV file with the columns path and label.
        data_dir: Where its files are; None searches the places where packages install them.
        download: Fetch missing files into `data_dir`. Never done unasked.
        image_size: Resize the images to this many pixels; None keeps their size.
        validation: Share of the training data to choose the best epoch by; None takes the data set's own, 10
            % (digits: 25 %, so that 60 % train, 20 % validate and 20 % test).
        flip: Whether training images are mirrored at random; None takes what the data set says, and images of
            your own are not.
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
    folder = Path(data_dir) if data_dir is not None else None
    raw = read_word(name, folder, download, image_size, flip)
    return split(name, raw, validation=validation, image_size=image_size, seed=seed)
