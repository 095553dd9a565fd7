"""1,797 real handwritten digits of 8x8 pixels, which come with scikit-learn: no download, no files.

References:
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    https://doi.org/10.24432/C50P49
"""

from pathlib import Path

import torch

from secateur.domains.classification.known import datasets
from secateur.domains.classification.splits import RawData, stratified
from secateur.extras import extra

# The bundled file has no test part; this seed makes one that never changes.
_TEST_SEED = 1797


@datasets("digits")
def read_digits(data_dir: Path | None, download: bool) -> RawData:
    """Take the digits from scikit-learn; a fixed fifth of every class is the test part."""
    with extra("train", "data sets of images"):
        from sklearn.datasets import load_digits  # costs half a second, and only this data set needs it

    bunch = load_digits()
    # 17 levels of grey, 0 to 16.
    pixels = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    rest, test = stratified(labels, 0.2, _TEST_SEED)
    return RawData(
        pixels[rest],
        labels[rest],
        pixels[test],
        labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
        flip=False,
        validation=0.25,
    )
