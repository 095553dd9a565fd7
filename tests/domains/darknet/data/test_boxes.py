import pytest
import torch

from secateur.domains.darknet.data import Annotations, LabelledImage, Labels, check_labels
from secateur.errors import DataError, RequestError


def sample(*rows, name="x"):
    return LabelledImage(torch.zeros(3, 8, 8, dtype=torch.uint8), Labels.of(rows), name)


def test_the_report_counts_images_backgrounds_and_classes():
    box = (0.5, 0.5, 0.5, 0.5)
    parts = {"train": (sample((0, box), (0, box)), sample()), "valid": (sample((1, box)),)}
    report = check_labels(Annotations(("cat", "dog", "cow"), parts))
    assert report.images == {"train": 2, "valid": 1}
    assert report.backgrounds == {"train": 1, "valid": 0}
    assert report.boxes == {"cat": 2, "dog": 1, "cow": 0}
    assert "no box of class cow" in str(report)


def test_a_part_without_images_is_an_error():
    with pytest.raises(DataError, match="part train has no images"):
        check_labels(Annotations(("cat",), {"train": ()}))


def test_missing_images_are_warnings_unless_all_are_missing(tmp_path):
    labels = Labels.of([(0, (0.5, 0.5, 1, 1))])
    gone = LabelledImage(tmp_path / "gone.jpg", labels)
    report = check_labels(Annotations(("cat",), {"train": (gone, sample((0, (0.5, 0.5, 1, 1))))}))
    assert "gone.jpg: the image is missing" in str(report)
    with pytest.raises(DataError, match="all 1 images"):
        check_labels(Annotations(("cat",), {"train": (gone,)}))


def test_an_unknown_part_names_those_there_are():
    with pytest.raises(RequestError, match=r"(?s)no part 'val'.*train"):
        Annotations(("cat",), {"train": ()})["val"]
