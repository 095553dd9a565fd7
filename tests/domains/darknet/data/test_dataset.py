import itertools

import pytest
import torch
from PIL import Image

from secateur.domains.darknet.data import (
    Annotations,
    Augmentation,
    LabelledImage,
    Labels,
    digit_scenes,
    loader,
)
from secateur.domains.darknet.data.letterbox import multi_scale
from secateur.errors import BrokenImageWarning, DataError, RequestError


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes(train=20, valid=7)


def same(one, other):
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) for a, b in pairs)


def test_validation_batches_are_all_images_in_order_unchanged(scenes):
    batches = list(loader(scenes["valid"], scenes.names, 96, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, torch.stack([s.image for s in scenes["valid"]]).float() / 255)
    frames = [frame for batch in batches for frame in batch.frames]
    assert [frame.sample for frame in frames] == list(scenes["valid"])
    for batch in batches:
        for index, frame in enumerate(batch.frames):
            rows = batch.targets[batch.targets[:, 0] == index]
            assert torch.equal(rows[:, 1].long(), frame.sample.labels.classes)
            assert torch.allclose(rows[:, 2:], frame.sample.labels.boxes, atol=1e-6)


def test_a_batch_takes_apart_into_images_and_targets(scenes):
    images, targets = next(iter(loader(scenes["valid"], scenes.names, 96, 3)))
    assert images.shape == (3, 3, 96, 96)
    assert targets.shape[1] == 6


def test_training_batches_depend_on_seed_and_epoch_only(scenes):
    def batches(seed=0, epoch=0, workers=0, global_seed=0):
        torch.manual_seed(global_seed)
        made = loader(
            scenes["train"],
            scenes.names,
            96,
            6,
            training=True,
            sizes=((64, 64), (96, 96)),
            augmentation=Augmentation(mosaic=0.5),
            seed=seed,
            workers=workers,
        )
        return list(made.at_epoch(epoch))

    first = batches()
    assert same(first, batches(global_seed=9))
    assert same(first, batches(workers=2))
    assert not torch.equal(first[0].targets, batches(seed=1)[0].targets)
    assert not torch.equal(first[0].targets, batches(epoch=1)[0].targets)


def test_the_global_generator_is_left_alone(scenes):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    list(loader(scenes["train"], scenes.names, 96, 6, training=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_is_seen_once_an_epoch_in_another_order(scenes):
    made = loader(scenes["train"], scenes.names, 96, 6, training=True)
    orders = []
    for epoch in range(2):
        orders.append([f.sample.name for batch in made.at_epoch(epoch) for f in batch.frames])
        assert sorted(orders[-1]) == sorted(s.name for s in scenes["train"])
    assert orders[0] != orders[1]


def test_multi_scale_changes_the_size_every_ten_batches(scenes):
    made = loader(
        scenes["train"] * 3, scenes.names, 96, 1, training=True, sizes=multi_scale(96), augmentation=None
    )
    sizes = [tuple(images.shape[2:]) for images, _ in made]
    assert len(sizes) == 60
    runs = [set(sizes[start : start + 10]) for start in range(0, 60, 10)]
    assert all(len(run) == 1 for run in runs)
    assert len(set.union(*runs)) > 1
    assert set.union(*runs) <= set(multi_scale(96))


def test_rectangular_batches_are_sorted_by_aspect_and_no_larger_than_needed():
    shapes = [(40, 80), (80, 40), (60, 60), (40, 80), (80, 40), (60, 60)]
    whole = Labels.of([(0, (0.5, 0.5, 1, 1))])
    samples = [
        LabelledImage(torch.full((3, *shape), 9, dtype=torch.uint8), whole, str(i))
        for i, shape in enumerate(shapes)
    ]
    batches = list(loader(samples, ("x",), 128, 2, rectangular=True))
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [(64, 128), (128, 128), (128, 64)]
    for batch in batches:
        assert torch.allclose(batch.targets[:, 2:], torch.tensor([0.5, 0.5, 1, 1]))
        assert (batch.images < 0.1).all()


def write_images(folder, scenes):
    samples = []
    for index, sample in enumerate(scenes["valid"][:6]):
        path = folder / f"{index}.png"
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(path)
        samples.append(LabelledImage(path, sample.labels))
    return samples


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_left_out_counted_and_named_once(tmp_path, scenes, workers):
    samples = write_images(tmp_path, scenes)
    whole = samples[1].image.read_bytes()
    samples[1].image.write_bytes(whole[: len(whole) // 2])
    samples[2].image.write_bytes(b"no image at all")
    samples[3].image.unlink()
    made = loader(samples, scenes.names, 96, 2, workers=workers)
    with pytest.warns(BrokenImageWarning) as caught:
        batches = list(made)
    assert [len(batch) for batch in batches] == [1, 2]
    assert set(made.broken) == {str(samples[i].image) for i in (1, 2, 3)}
    assert len(caught) == 3
    assert "there is no such file" in made.broken[str(samples[3].image)]
    assert "3 broken" in str(made)
    # The second epoch knows them: no further warning, and every warning is an error here.
    assert [len(batch) for batch in made.at_epoch(1)] == [1, 2]


def test_only_broken_images_are_an_error(tmp_path):
    samples = [LabelledImage(tmp_path / "a.png", Labels.of([]))]
    with pytest.warns(BrokenImageWarning), pytest.raises(DataError, match="none of 1 images can be read"):
        list(loader(samples, ("x",), 96, 2))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode).save(path)
    ((images, _),) = list(loader([LabelledImage(path, Labels.of([]))], ("x",), 32))
    assert images.shape == (1, 3, 32, 32)
    assert (images == 1).all()


def test_ignored_boxes_are_no_targets():
    labels = Labels.of([(0, (0.5, 0.5, 1, 1)), (0, (0.5, 0.5, 0.5, 0.5))], [True, False])
    samples = [LabelledImage(torch.zeros(3, 32, 32, dtype=torch.uint8), labels, "x")]
    ((_, targets),) = list(loader(samples, ("x",), 32))
    assert targets.tolist() == [[0, 0, 0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "multiple of 32"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"augmentation": Augmentation()}, "augmentation is for training"),
        ({"sizes": ((96, 96),)}, "sizes are for training"),
        ({"sizes": ((96, 96),), "training": True, "rectangular": True}, "sizes are for training"),
    ],
)
def test_options_that_do_not_fit_are_refused(scenes, options, message):
    with pytest.raises(RequestError, match=message):
        loader(scenes["valid"], scenes.names, **options)


def test_no_samples_are_refused():
    with pytest.raises(RequestError, match="no images"):
        loader(Annotations((), {"train": ()})["train"], ())


def test_training_batches_in_rectangles_see_every_image(scenes):
    made = loader(scenes["train"], scenes.names, 96, 6, training=True, rectangular=True)
    names = itertools.chain.from_iterable([f.sample.name for f in batch.frames] for batch in made)
    assert sorted(names) == sorted(s.name for s in scenes["train"])
