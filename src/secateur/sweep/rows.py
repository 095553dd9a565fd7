"""What the rows of a sweep depend on; the rows themselves are `secateur.write.rows`."""

import hashlib

from torch import nn

from secateur.train.classifier import Part
from secateur.write.rows import bytes_of


def fingerprint(model: nn.Module, part: Part) -> dict[str, str]:
    """What the rows of a sweep depend on: the values of a model and the images it is judged by."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(bytes_of(value))
    images = hashlib.sha256()
    for pixels, labels in part.batches(256):
        images.update(bytes_of(pixels))
        images.update(bytes_of(labels))
    return {"model": digest.hexdigest()[:16], "images": images.hexdigest()[:16]}
