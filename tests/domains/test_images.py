import pytest
import torch

from secateur.domains.classification import load
from secateur.domains.classification.images import DataSpec, Images, channel_statistics, crop_and_flip


def make_images(n=50, channels=3, size=6, flip=True):
    generator = torch.Generator().manual_seed(n)
    pixels = torch.randint(1, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    mean, std = channel_statistics(pixels)
    names = tuple("abcde")
    spec = DataSpec("noise", channels, size, names, mean, std, padding=1, flip=flip)
    return Images(spec, pixels, torch.arange(n) % 5)


def together(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_evaluation_batches_are_all_images_in_order_and_normalised():
    images = make_images()
    batches = images.batches(16)
    assert len(batches) == 4
    pixels, labels = together(batches)
    assert torch.equal(labels, images.labels)
    assert pixels.mean((0, 2, 3)).abs().max() < 1e-5
    assert (pixels.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_training_batches_are_a_permutation_that_changes_with_epoch_and_seed():
    images = make_images(200)
    orders = [
        together(images.batches(32, training=True, seed=seed, epoch=epoch))[1].tolist()
        for seed, epoch in [(0, 1), (0, 2), (1, 1), (0, 1)]
    ]
    assert all(sorted(order) == sorted(images.labels.tolist()) for order in orders)
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("training", [False, True])
def test_batches_do_not_depend_on_workers_nor_on_the_global_generator(training):
    images = make_images()
    torch.manual_seed(1)
    here = together(images.batches(16, training=training, epoch=3, pin_memory=True))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    there = together(images.batches(16, training=training, epoch=3, workers=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])


def test_a_last_batch_of_one_image_is_left_out_of_training_only():
    images = make_images(33)
    assert len(images.batches(16, training=True)) == 2
    assert len(images.batches(16)) == 3


def test_crop_and_flip_is_a_window_of_the_padded_image_or_its_mirror():
    images = make_images(40, channels=2, size=5)
    padding = 2
    padded = torch.nn.functional.pad(images.pixels, (padding,) * 4)
    augmented = crop_and_flip(images.pixels, padding, True, torch.Generator().manual_seed(0))
    seen = set()
    for whole, window in zip(padded, augmented, strict=True):
        matches = {
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(whole[:, top : top + 5, left : left + 5], window.flip(-1) if mirrored else window)
        }
        assert len(matches) == 1
        seen |= matches
    assert len(seen) > 20
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_without_padding_and_flip_nothing_changes():
    images = make_images()
    assert torch.equal(crop_and_flip(images.pixels, 0, False, torch.Generator()), images.pixels)


def test_channel_statistics_agree_with_the_definition():
    pixels = make_images(100).pixels
    mean, std = channel_statistics(pixels)
    reference = pixels.double() / 255
    assert mean == pytest.approx(reference.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(reference.std((0, 2, 3), correction=0).tolist())


def test_a_channel_that_never_changes_can_be_normalised():
    assert channel_statistics(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)) == ((1.0,), (1.0,))


def test_an_epoch_of_digits_is_prepared_in_a_fraction_of_a_second():
    assert sum(len(labels) for _, labels in load("digits").train.batches(64, training=True)) == 1079
