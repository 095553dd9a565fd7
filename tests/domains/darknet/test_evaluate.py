import pytest
import torch
from torchvision.ops import box_convert

from secateur.domains.darknet.data import LabelledImage, Labels, digit_scenes, loader
from secateur.domains.darknet.evaluate import detections, evaluate
from secateur.errors import BrokenImageWarning, DataError, RequestError

SIZE = 96


def sample(*rows, shape=(SIZE, SIZE), ignored=None, name="x"):
    return LabelledImage(torch.zeros(3, *shape, dtype=torch.uint8), Labels.of(rows, ignored), name)


def box(left, top, width=20, height=20, side=SIZE):
    return ((left + width / 2) / side, (top + height / 2) / side, width / side, height / side)


def told(found, classes):
    """A detector that finds what it is told: for each image in turn, rows of (class, score, corners)."""
    images = iter(found)

    def predict(pixels):
        rows = [next(images) for _ in range(len(pixels))]
        most = max(len(each) for each in rows)
        boxes, scores = torch.zeros(len(rows), most, 4), torch.zeros(len(rows), most, classes)
        for image, each in enumerate(rows):
            for index, (label, score, corners) in enumerate(each):
                boxes[image, index] = torch.as_tensor(corners, dtype=torch.float32)
                scores[image, index, label] = score
        return boxes, scores

    return predict


def perfect(batches, classes):
    """A detector that reads the targets off the loader, in pixels of the input."""
    found = []
    for batch in batches:
        height, width = batch.images.shape[2:]
        for index in range(len(batch)):
            rows = batch.targets[batch.targets[:, 0] == index]
            corners = box_convert(rows[:, 2:], "cxcywh", "xyxy") * torch.tensor([width, height] * 2)
            found.append([(int(row[1]), 0.9, corner) for row, corner in zip(rows, corners, strict=True)])
    return told(found, classes)


def test_perfect_predictions_score_one():
    scenes = digit_scenes(train=0, valid=40)
    batches = loader(scenes["valid"], scenes.names, SIZE, 8)
    result = evaluate(perfect(batches, 10), batches)
    assert result.map50 == result.map == 1.0
    assert result.per_class == dict.fromkeys("0123456789", 1.0)
    assert (result.images, result.skipped) == (40, 0)
    assert result.boxes == sum(len(s.labels) for s in scenes["valid"])


@pytest.mark.parametrize("rectangular", [False, True])
def test_predictions_are_mapped_back_through_the_letterbox(rectangular):
    rows = [(0, (0.4, 0.5, 0.1, 0.3)), (1, (0.7, 0.6, 0.3, 0.2))]
    samples = [sample(*rows, shape=shape) for shape in ((300, 400), (500, 200), (64, 64), (480, 640))]
    batches = loader(samples, ("a", "b"), SIZE, 2, rectangular=rectangular)
    result = evaluate(perfect(batches, 2), batches)
    assert result.map50 == result.map == 1.0


def test_known_average_precision_of_a_false_alarm_above_a_hit():
    # Two boxes, both found; a false alarm is the surest. Precision is 1/2 at recall 1/2 and 2/3 at recall 1,
    # so the interpolated precision is 2/3 everywhere.
    batches = loader([sample((0, box(10, 10)), (0, box(60, 60)))], ("a",), SIZE)
    rows = [(0, 0.9, [40, 10, 50, 20]), (0, 0.8, [10, 10, 30, 30]), (0, 0.7, [60, 60, 80, 80])]
    result = evaluate(told([rows], 1), batches)
    assert result.map50 == pytest.approx(2 / 3, abs=1e-6)
    assert result.map == pytest.approx(2 / 3, abs=1e-6)


def test_known_average_precision_of_half_of_the_boxes():
    # One of two boxes is found: precision 1 up to recall 1/2, then 0; 51 of the 101 recalls are at most 1/2.
    batches = loader([sample((0, box(10, 10)), (0, box(60, 60)))], ("a",), SIZE)
    result = evaluate(told([[(0, 0.9, [10, 10, 30, 30])]], 1), batches)
    assert result.map50 == pytest.approx(51 / 101, abs=1e-6)


@pytest.mark.parametrize(("height", "passed"), [(41, 0), (38, 1), (30, 4), (21, 10)])
def test_a_box_counts_at_the_thresholds_that_its_iou_passes(height, passed):
    # 20 x 20 against 20 x height with the same corner: the IoU is 20 / height.
    batches = loader([sample((0, box(10, 10)))], ("a",), SIZE)
    result = evaluate(told([[(0, 0.9, [10, 10, 30, 10 + height])]], 1), batches)
    assert result.map50 == result.per_class["a"] == pytest.approx(float(passed > 0))
    assert result.map == pytest.approx(passed / 10, abs=1e-6)


def test_average_precision_by_class():
    batches = loader(
        [sample((0, box(10, 10)), (1, box(60, 60))), sample((1, box(30, 30)))], ("a", "b", "c"), SIZE
    )
    found = [[(0, 0.9, [10, 10, 30, 30]), (2, 0.9, [1, 1, 9, 9])], [(1, 0.9, [30, 30, 50, 50])]]
    result = evaluate(told(found, 3), batches)
    assert result.per_class == {
        "a": pytest.approx(1.0),
        "b": pytest.approx(51 / 101, abs=1e-6),
        "c": None,
    }
    assert result.map50 == pytest.approx((1 + 51 / 101) / 2, abs=1e-6)
    assert str(result).splitlines() == [
        f"mAP@0.5 {result.map50:.4f}, mAP@0.5:0.95 {result.map:.4f} (3 boxes in 2 images)",
        "  a  1.0000",
        "  b  0.5050",
        "  c  no boxes",
    ]


def test_finding_an_ignored_box_is_neither_right_nor_wrong():
    rows = [(0, box(10, 10)), (0, box(60, 60))]
    batches = loader([sample(*rows, ignored=[False, True])], ("a",), SIZE)
    found = [(0, 0.9, [60, 60, 80, 80]), (0, 0.8, [10, 10, 30, 30])]
    result = evaluate(told([found], 1), batches)
    assert (result.map50, result.boxes) == (pytest.approx(1.0), 1)


def test_doubled_boxes_are_suppressed_before_they_count():
    batches = loader([sample((0, box(10, 10)), (0, box(60, 60)))], ("a",), SIZE)
    rows = [(0, 0.9, [10, 10, 30, 30]), (0, 0.8, [10, 10, 30, 31]), (0, 0.7, [60, 60, 80, 80])]
    assert evaluate(told([rows], 1), batches).map50 == pytest.approx(1.0)
    assert evaluate(told([rows], 1), batches, iou=1.0).map50 < 0.9


def test_nothing_found_scores_zero():
    batches = loader([sample((0, box(10, 10)))], ("a",), SIZE)
    result = evaluate(lambda images: (torch.zeros(1, 5, 4), torch.zeros(1, 5, 1)), batches)
    assert (result.map50, result.map, result.per_class) == (0, 0, {"a": 0})


def test_broken_images_are_counted(tmp_path):
    broken = LabelledImage(tmp_path / "gone.png", Labels.of([(0, box(10, 10))]))
    batches = loader([broken, sample((0, box(10, 10)))], ("a",), SIZE, 1)
    with pytest.warns(BrokenImageWarning):
        result = evaluate(told([[(0, 0.9, [10, 10, 30, 30])]], 1), batches)
    assert (result.map50, result.images, result.skipped) == (pytest.approx(1.0), 1, 1)
    assert "1 broken images left out" in str(result)


def test_requests_that_make_no_sense_are_refused():
    batches = loader([sample((0, box(10, 10)))], ("a",), SIZE)
    with pytest.raises(RequestError, match="has 2 classes, the data set 1"):
        evaluate(lambda images: (torch.zeros(1, 5, 4), torch.zeros(1, 5, 2)), batches)
    with pytest.raises(RequestError, match="augmented"):
        evaluate(lambda images: (), loader([sample()], ("a",), SIZE, training=True))
    empty = loader([sample()], ("a",), SIZE)
    with pytest.raises(DataError, match="labelled box"):
        evaluate(lambda images: (torch.zeros(1, 5, 4), torch.zeros(1, 5, 1)), empty)


def test_suppression_is_by_class_and_by_image():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 11]]]).repeat(2, 1, 1)
    scores = torch.tensor([[[0.9, 0.6], [0.8, 0.0]], [[0.0, 0.0], [0.8, 0.1]]])
    first, second = detections(boxes, scores, conf=0.25, iou=0.5)
    assert (first.classes.tolist(), first.scores.tolist()) == ([0, 1], pytest.approx([0.9, 0.6]))
    assert (second.classes.tolist(), second.scores.tolist()) == ([0], pytest.approx([0.8]))
    assert len(detections(boxes, scores, conf=0.0, iou=1.0, most=2)[0]) == 2


@pytest.mark.parametrize("options", [{"conf": 1.5}, {"iou": -0.1}])
def test_thresholds_out_of_range_are_refused(options):
    with pytest.raises(RequestError, match="allowed: 0 to 1"):
        detections(torch.zeros(1, 1, 4), torch.zeros(1, 1, 1), **options)


def test_scores_that_do_not_belong_to_the_boxes_are_refused():
    with pytest.raises(RequestError, match="do not fit"):
        detections(torch.zeros(1, 2, 4), torch.zeros(1, 1, 1))
