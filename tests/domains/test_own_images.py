"""Images of the user's own, and the words that name data."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.domains.classification import files, load
from secateur.domains.classification.pixels import ImageFiles, read_image
from secateur.domains.classification.words import labelled_parts
from secateur.errors import BrokenImageWarning, RequestError
from secateur.train.own import as_parts, parts_of
from secateur.train.task import Opening, Parts, Task, find_task


def draw(path, label, number, size=(9, 12), mode="RGB"):
    """An image of a class: the brighter, the larger its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 60, (*size, 3))
    image = Image.fromarray((noise + 60 * label).astype(np.uint8))
    image.convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("cat", "dog", "10", "9")):
        for number in range(20):
            draw(tmp_path / "images" / name / f"{number}.png", label, number)
    return tmp_path / "images"


def test_a_folder_of_classes_becomes_three_parts(folder):
    splits = load(str(folder))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (56, 8, 16)
    assert splits.spec.class_names == ("9", "10", "cat", "dog")  # numbers in their order
    assert splits.spec.shape == "3 x 9 x 9"  # the shorter side, the middle of the longer
    assert not splits.spec.flip
    assert load(str(folder), flip=True).spec.flip
    dogs = splits.train.pixels[splits.train.labels == 3].float().mean()
    assert 60 < dogs < 120  # 60 of its class and half of 60 of noise


def test_the_test_part_does_not_depend_on_the_seed(folder):
    one, other = load(str(folder), seed=1), load(str(folder), seed=2)
    assert torch.equal(one.test.pixels, other.test.pixels)
    assert not torch.equal(one.validation.pixels, other.validation.pixels)


def test_sizes_are_unified(folder):
    draw(folder / "cat" / "large.jpg", 0, 1, size=(40, 30))
    assert load(str(folder)).spec.image_size == 9
    assert load(str(folder), image_size=16).train.pixels.shape[-2:] == (16, 16)


def test_a_folder_with_parts_keeps_them(tmp_path):
    counts = {"train": 6, "val": 2, "test": 3}
    for part, count in counts.items():
        for label, name in enumerate("ab"):
            for number in range(count):
                draw(tmp_path / part / name / f"{number}.png", label, number, mode="L")
    splits = load(str(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 4, 6)
    assert splits.spec.in_channels == 1


def test_a_class_may_be_called_train(tmp_path):
    for label, name in enumerate(("train", "bus")):
        for number in range(10):
            draw(tmp_path / name / f"{number}.png", label, number)
    assert load(str(tmp_path)).spec.class_names == ("bus", "train")


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_table_of_paths(folder, tmp_path):
    rows = [
        (f"images/{name}/{number}.png", name, "test" if number < 5 else "train")
        for name in ("cat", "dog")
        for number in range(20)
    ]
    splits = load(str(table(tmp_path / "list.csv", [("path", "label", "part"), *rows])))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (26, 4, 10)
    unparted = load(str(table(tmp_path / "all.csv", [("path", "label"), *[row[:2] for row in rows]])))
    assert len(unparted.test) == 8


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("file", "label")], "is no table of images"),
        ([("path", "label")], "lists no image"),
        ([("path", "label", "part"), ("a.png", "a", "tset")], "line 2 of .* is a.png,a,tset"),
        ([("path", "label", "part"), ("a.png", "a", "test"), ("b.png", "a", "")], "part of some images only"),
        ([("path", "label"), ("gone.png", "a")], "1 of 1 images of .* cannot be read"),
    ],
)
def test_a_table_that_says_too_little_is_refused(tmp_path, rows, message):
    with pytest.raises(RequestError, match=message):
        load(str(table(tmp_path / "list.csv", rows)))


def test_broken_images_are_named_and_fatal_beyond_a_share(folder):
    for number in range(3):
        (folder / "cat" / f"broken{number}.png").write_bytes(b"no image")
    whole = (folder / "dog" / "0.png").read_bytes()
    (folder / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])  # opens, but cannot be decoded
    with pytest.warns(BrokenImageWarning) as warned:
        splits = load(str(folder))
    told = "".join(str(warning.message) for warning in warned)
    assert all(name in told for name in ("broken0.png", "broken1.png", "broken2.png", "dog/0.png"))
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 79
    for number in range(30):
        (folder / "cat" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match="cannot be read") as refused:
        load(str(folder))
    assert "and 28 more" in str(refused.value)


def test_images_that_do_not_fit_in_memory_stay_in_their_files(folder, monkeypatch):
    held = load(str(folder))
    monkeypatch.setattr(files, "IN_MEMORY", 1)
    read = load(str(folder))
    assert isinstance(read.train.pixels, ImageFiles)
    for one, other in zip(
        held.train.batches(16, training=True), read.train.batches(16, training=True), strict=True
    ):
        assert torch.equal(one[1], other[1])
        assert torch.allclose(one[0], other[0])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cifar", "unknown data set 'cifar'"),
        ("./gone", "there is no folder ./gone"),
        ("gone.csv", "there is no file gone.csv"),
    ],
)
def test_an_unknown_word_tells_the_ways(word, message):
    with pytest.raises(RequestError, match=message) as refused:
        load(word)
    if word != "gone.csv":
        assert "file.py:function" in str(refused.value)
        assert "a CSV file" in str(refused.value)
    if word == "cifar":
        assert "did you mean 'cifar1" in str(refused.value)


@pytest.mark.parametrize("made", [{}, {"a": ()}, {"a": ("x.png",)}, {"a": ("x.png",), "b": ()}])
def test_a_folder_without_classes_is_refused(tmp_path, made):
    for name, images in made.items():
        (tmp_path / name).mkdir()
        for image in images:
            draw(tmp_path / name / image, 0, 0)
    with pytest.raises(RequestError, match=r"class|no image of b"):
        load(str(tmp_path))


OWN = """
import torch
from torch.utils.data import TensorDataset
from secateur.train.task import Parts, Task

def data(n=50, seed=0):
    return TensorDataset(torch.arange(float(n))[:, None] + seed, torch.arange(n) % 3)

def three():
    return data(6), data(2), data(4)

def named():
    return {"train": data(10), "val": data(3), "test": data(2)}

def parts():
    return Parts("mine", *three())

def broken():
    raise ValueError("no such disk")

def number():
    return 3

class Mine(Task):
    def open(self, word, opening): return parts()
    def loss(self, model, output, batch): return {}

class Lacking(Task):
    pass

def no_task():
    return 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


@pytest.mark.parametrize(
    ("function", "sizes"),
    [("data", (36, 4, 10)), ("three", (6, 2, 4)), ("named", (10, 3, 2)), ("parts", (6, 2, 4))],
)
def test_a_function_gives_datasets(own, function, sizes):
    parts = parts_of(f"{own}:{function}", Opening(seed=0))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == sizes
    assert labelled_parts(parts).test.num_classes == 3


def test_a_function_takes_seed_and_options(own):
    parts = parts_of(f"{own}:data", Opening(seed=1000, options={"n": 20}))
    inputs = torch.cat([inputs for inputs, _ in parts.train.batches(4)])
    assert len(inputs) == 14
    assert inputs.min() >= 1000


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("broken", {}, "does not run: ValueError: no such disk"),
        ("gone", {}, "has no function 'gone'"),
        ("number", {}, "returns a int as its train part"),
        ("data", {"size": 3}, "cannot be called: got an unexpected keyword argument 'size'"),
    ],
)
def test_a_function_that_gives_no_data_is_refused(own, function, options, message):
    with pytest.raises(RequestError, match=message):
        parts_of(f"{own}:{function}", Opening(options=options))


def test_a_task_of_a_file(own):
    assert isinstance(find_task(f"{own}:Mine"), Task)
    for name, message in {
        "Lacking": "lacks loss",
        "no_task": "is no task",
        "gone": "has no task 'gone'",
    }.items():
        with pytest.raises(RequestError) as refused:
            find_task(f"{own}:{name}")
        assert message in str(refused.value)


def test_what_is_not_given_is_drawn_once(own):
    numbers = list(range(100))
    one, other = as_parts("numbers", numbers, seed=0), as_parts("numbers", numbers, seed=1)

    def held(part):
        return sorted(part.dataset)

    assert held(one.test) == held(other.test)
    assert held(one.validation) != held(other.validation)
    assert sorted(held(one.train) + held(one.validation) + held(one.test)) == numbers
    assert isinstance(as_parts("mine", one), Parts)


def test_pairs_without_classes_are_no_classification():
    reals = torch.utils.data.TensorDataset(torch.zeros(20, 3), torch.zeros(20))
    with pytest.raises(RequestError, match="no class beside each input"):
        labelled_parts(as_parts("reals", reals))


def test_a_broken_image_is_told_alike_where_another_library_wraps_pillow(tmp_path, monkeypatch):
    """Ultralytics does: its `open` asks for a package for HEIF files where Pillow knows no such image."""
    plain = Image.open

    def wrapped(*args, **kwargs):
        try:
            return plain(*args, **kwargs)
        except OSError:
            raise ModuleNotFoundError("No module named 'pi_heif'")  # noqa: B904 - as it happens there

    monkeypatch.setattr(Image, "open", wrapped)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"broken\.png cannot be read as an image: cannot identify"):
        read_image(tmp_path / "broken.png", 3, 8)
