"""Segmentation: folders of masks, the loss, the mean IoU."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchmetrics.segmentation import MeanIoU

import secateur as sc
from secateur.domains.segmentation import Segmentation, open_folder
from secateur.domains.segmentation.folders import read_mask
from secateur.errors import RequestError
from secateur.sweep import channel_sweep
from secateur.train import FitConfig, Work, fit, judge
from secateur.train.task import Opening, find_task


def write(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array, mode) if mode else Image.fromarray(array)
    if mode == "P":
        image.putpalette([7 * number % 256 for number in range(768)])
    image.save(path)


def scene(number, size=(12, 16)):
    """A bright square on the left half of a dark image; the last row has no class."""
    mask = np.zeros(size, np.uint8)
    mask[2:8, number % 4 : number % 4 + 6] = 1 + number % 2
    image = np.stack([np.where(mask > 0, 200, 20)] * 3, -1).astype(np.uint8)
    mask[-1] = 255
    return image, mask


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        image, mask = scene(number)
        write(tmp_path / "shapes" / "images" / f"{number}.jpg", image)
        write(tmp_path / "shapes" / "masks" / f"{number}.png", mask, "P" if number % 2 else None)
    return tmp_path / "shapes"


class Conv(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.inner, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 1)
        self.aux = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        hidden = self.inner(images).relu()
        return {"out": self.head(hidden), "aux": self.aux(F.avg_pool2d(hidden, 2))}


def test_a_folder_becomes_parts(folder):
    parts = open_folder(str(folder), Opening())
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (14, 2, 4)
    images, masks = next(iter(parts.train.batches(32)))
    assert images.shape == (14, 3, 12, 12)
    assert masks.shape == (14, 12, 12)
    assert masks.unique().tolist() == [0, 1, 2, 255]
    assert parts.details["class names"] == ("0", "1", "2")
    assert abs(float(images.mean())) < 0.05


def test_masks_follow_their_images(folder):
    parts = open_folder(str(folder), Opening(options={"flip": True, "image_size": 24}))
    for images, masks in parts.train.batches(5, training=True, seed=3):
        inside = (masks > 0) & (masks < 255)
        lit = images.mean(1) > 0
        labelled = masks < 255
        agree = (inside == lit)[labelled].float().mean()
        assert agree > 0.9  # but for the blurred borders


def test_epochs_differ_and_repeat(folder):
    train = open_folder(str(folder), Opening(options={"flip": True})).train
    first, again, other = (next(iter(train.batches(5, training=True, epoch=epoch))) for epoch in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("layout", ["train/images", "images/train"])
def test_parts_may_stand_above_or_below(tmp_path, layout):
    for part, count in {"train": 4, "val": 2, "test": 3}.items():
        for number in range(count):
            image, mask = scene(number)
            inner = layout.replace("train", part)
            write(tmp_path / inner / f"{number}.png", image)
            write(tmp_path / inner.replace("images", "masks") / f"{number}.png", mask)
    (tmp_path / "classes.txt").write_text("nothing\none\ntwo\nthree\n")
    parts = open_folder(str(tmp_path), Opening())
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (4, 2, 3)
    assert parts.details["class names"] == ("nothing", "one", "two", "three")


def test_masks_of_0_and_255_must_be_explained(tmp_path):
    for number in range(10):
        image, mask = scene(number)
        write(tmp_path / "images" / f"{number}.png", image)
        write(tmp_path / "masks" / f"{number}.png", ((mask > 0) * 255).astype(np.uint8))
    with pytest.raises(RequestError, match="binary=true"):
        open_folder(str(tmp_path), Opening())
    parts = open_folder(str(tmp_path), Opening(options={"binary": True}))
    assert next(iter(parts.train.batches(8)))[1].unique().tolist() == [0, 1]


def test_what_is_no_folder_of_masks_is_refused(folder, tmp_path):
    task = Segmentation()
    with pytest.raises(RequestError, match="there is no folder"):
        task.open(str(tmp_path / "gone"), Opening())
    with pytest.raises(RequestError, match="size is no option"):
        task.open(str(folder), Opening(options={"size": 3}))
    colours = np.zeros((12, 16, 3), np.uint8)
    write(folder / "masks" / "3.png", colours)
    with pytest.raises(RequestError, match="is no mask: it has mode RGB"):
        task.open(str(folder), Opening())
    (folder / "masks" / "3.png").unlink()
    with pytest.raises(RequestError, match="does not hold images with masks"):
        task.open(str(folder), Opening())


def test_a_mask_keeps_its_numbers(tmp_path):
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8)
    write(tmp_path / "mask.png", mask, "P")
    assert read_mask(tmp_path / "mask.png", None).tolist() == mask.tolist()
    assert set(read_mask(tmp_path / "mask.png", 24).unique().tolist()) <= set(mask.flatten().tolist())


def test_the_loss_is_that_of_torchvisions_reference(folder):
    task, model = Segmentation(), Conv()
    batch = next(iter(open_folder(str(folder), Opening()).train.batches(6)))
    output = model(batch[0])
    losses = task.loss(model, output, batch)
    aux = F.interpolate(output["aux"], size=batch[1].shape[-2:], mode="bilinear", align_corners=False)
    expected = F.cross_entropy(output["out"], batch[1], ignore_index=255) + 0.5 * F.cross_entropy(
        aux, batch[1], ignore_index=255
    )
    assert list(losses) == ["cross entropy", "auxiliary"]
    torch.testing.assert_close(sum(losses.values()), expected)
    nothing = (batch[0], torch.full_like(batch[1], 255))
    assert float(sum(task.loss(model, output, nothing).values()).detach()) == 0


def test_the_mean_iou_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    reference = MeanIoU(num_classes=4, input_format="index", per_class=False)
    meter = Segmentation().meter(nn.Identity(), None)
    for count in (5, 2):
        scores = torch.randn(count, 4, 6, 6, generator=generator)
        masks = torch.randint(0, 4, (count, 6, 6), generator=generator)
        meter.add(scores, (None, masks))
    figures = meter.figures()
    # torchmetrics averages over images; one image of all pixels is the same as ours
    generator = torch.Generator().manual_seed(0)
    answers, truths = [], []
    for count in (5, 2):
        scores = torch.randn(count, 4, 6, 6, generator=generator)
        truths.append(torch.randint(0, 4, (count, 6, 6), generator=generator).flatten())
        answers.append(scores.argmax(1).flatten())
    answer, truth = torch.cat(answers), torch.cat(truths)
    expected = reference(answer[None, None], truth[None, None])
    assert figures.name == "mean IoU"
    assert figures.deciding == pytest.approx(float(expected))
    assert figures.values["pixel accuracy"] == pytest.approx(float((answer == truth).float().mean()))
    assert figures.count == 7


def test_what_is_left_out_does_not_count():
    meter = Segmentation().meter(nn.Identity(), None)
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 1] = 5.0
    meter.add(scores, (None, torch.tensor([[[1, 255], [255, 1]]])))
    assert meter.figures().values["mean IoU"] == 1.0
    assert meter.figures().details["IoU per class"] == [None, 1.0, None]
    assert math.isclose(
        meter.figures().values["loss"], -math.log(math.exp(5) / (math.exp(5) + 2)), rel_tol=1e-5
    )


def test_a_model_with_too_few_classes_is_refused():
    with pytest.raises(RequestError, match="knows 2 classes, a mask holds class 2"):
        Segmentation().loss(nn.Identity(), torch.zeros(1, 2, 2, 2), (None, torch.full((1, 2, 2), 2)))
    with pytest.raises(RequestError, match="no scores of classes for every pixel"):
        Segmentation().loss(nn.Identity(), torch.zeros(1, 2), (None, torch.full((1, 2, 2), 1)))


def test_it_is_trained_pruned_and_swept(folder):
    work = Work(Segmentation(), open_folder(str(folder), Opening()))
    config = FitConfig(epochs=6, lr=0.2, batch_size=4, quiet=True, device="cpu")
    torch.manual_seed(0)
    fitted = fit(Conv(), work.parts, config, task=work.task)
    assert list(fitted.kept.losses) == ["cross entropy", "auxiliary"]
    assert fitted.kept.validated.name == "mean IoU"
    dense = judge(fitted.model, work.test, work.task, device="cpu")
    swept = channel_sweep(fitted.model, "inner", work.test, (8,), task=work.task, device="cpu", batch_size=3)
    assert swept.figure == "mean IoU"
    assert swept.rows[0].value == pytest.approx(dense.deciding)
    silent = copy.deepcopy(fitted.model)
    with torch.no_grad():
        silent.inner.weight.zero_()
        silent.inner.bias.zero_()
    assert swept.rows[-1].value == pytest.approx(judge(silent, work.test, work.task, device="cpu").deciding)
    taylor = work.criterion(fitted.model, "taylor")
    result = sc.prune(fitted.model, work.example, ratio=0.5, criterion=taylor, data=work.evidence(8))
    assert result.verdict.exact
    assert result.model.inner.out_channels == 4


def test_the_picture_shows_answers_and_masks(folder, tmp_path):
    parts = open_folder(str(folder), Opening())
    path = find_task("segmentation").picture(Conv(), parts.test, tmp_path / "seen.png")
    with Image.open(path) as image:
        assert image.size == (4 * 14 + 2, 2 * 14 + 2)
        assert len(image.getcolors(10**6)) > 4
