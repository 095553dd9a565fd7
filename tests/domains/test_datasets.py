import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision_datasets

from secateur.domains.classification import datasets, load
from secateur.domains.classification.known import mnist
from secateur.domains.classification.splits import RawData, split, stratified
from secateur.errors import CheckpointError, RequestError, SecateurError

FASHION = Path("/usr/share/datasets/fashion-mnist")


def write_idx(path, array):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, suffix="", train=200, test=50):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, n in [("train", train), ("t10k", test)]:
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (n, 28, 28), np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", (np.arange(n) % 10).astype(np.uint8))


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_bundled_data_sets_are_deterministic_disjoint_and_stratified(name):
    splits, again = load(name), load(name)
    assert torch.equal(splits.train.pixels, again.train.pixels)
    parts = [splits.train, splits.validation, splits.test]
    images = [image.numpy().tobytes() for part in parts for image in part.pixels]
    assert len(set(images)) == len(images)
    for part in parts:
        counts = torch.bincount(part.labels, minlength=10)
        assert len(counts) == splits.spec.num_classes
        assert counts.max() <= 1.2 * counts.min()


def test_digits_are_all_there_and_the_test_part_does_not_depend_on_the_seed():
    one, other = load("digits", seed=0), load("digits", seed=1)
    assert sum(len(part) for part in (one.train, one.validation, one.test)) == 1797
    assert torch.equal(one.test.pixels, other.test.pixels)
    assert not torch.equal(one.validation.labels, other.validation.labels)
    assert one.spec.image_size == 8
    assert one.spec.padding == 1
    assert not one.spec.flip


def test_images_are_resized_when_asked():
    spec = load("digits", image_size=16).spec
    assert (spec.image_size, spec.padding) == (16, 2)
    colour = load("fake", image_size=28)
    assert colour.train.pixels.shape[1:] == (3, 28, 28)
    assert colour.train.pixels.dtype == torch.uint8


def test_normalisation_is_measured_on_the_training_part_alone():
    splits = load("digits", seed=3)
    pixels = splits.train.pixels.double() / 255
    assert splits.spec.mean == pytest.approx([pixels.mean().item()])
    assert splits.spec.std == pytest.approx([pixels.std(correction=0).item()])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_mnist_is_found_in_every_usual_layout(tmp_path, folder, suffix):
    write_mnist(tmp_path / folder, suffix)
    splits = load("mnist", data_dir=tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (180, 20, 50)
    assert splits.spec.class_names[3] == "3"
    assert not splits.spec.flip


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("data_dir", [None, FASHION, FASHION.parent])
def test_debians_fashion_mnist_is_found(data_dir):
    splits = load("fashion-mnist", data_dir=data_dir)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (54_000, 6_000, 10_000)
    assert splits.spec.flip
    assert splits.spec.padding == 4


def test_missing_folder_and_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(RequestError, match="there is no data folder"):
        load("mnist", data_dir=tmp_path / "nowhere")
    with pytest.raises(RequestError, match=r"mnist is not in .*\n.*no train-images-idx3-ubyte"):
        load("mnist", data_dir=tmp_path)
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError, match="lacks t10k-labels-idx1-ubyte"):
        load("mnist", data_dir=tmp_path)


def test_without_folder_and_without_system_package_the_message_names_both(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_SYSTEM", tmp_path)
    with pytest.raises(RequestError, match="install Debian's dataset-fashion-mnist"):
        load("fashion-mnist")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(7, np.uint8))
    with pytest.raises(CheckpointError, match="do not belong together"):
        load("mnist", data_dir=tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.full(200, 46, np.uint8))
    with pytest.raises(CheckpointError, match=r"labels 0\.\.46"):
        load("mnist", data_dir=tmp_path)


def test_truncated_images_are_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")]
)
def test_a_foreign_cifar_archive_is_never_unpickled(tmp_path, name, folder, monkeypatch):
    def explode(*_args, **_kwargs):
        raise AssertionError("unpickled a file of unknown checksum")

    monkeypatch.setattr("pickle.load", explode)
    with pytest.raises(RequestError, match="needs a data folder"):
        load(name)
    with pytest.raises(RequestError, match=f"there is no folder .*{folder}"):
        load(name, data_dir=tmp_path)
    (tmp_path / folder).mkdir()
    for file in ["data_batch_1", "train", "test", "test_batch", "meta", "batches.meta"]:
        (tmp_path / folder / file).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"checksum"):
        load(name, data_dir=tmp_path)


def test_cifar_images_come_out_channel_first(tmp_path, monkeypatch):
    class Archive:
        base_folder = "cifar-10-batches-py"
        classes = tuple("0123456789")

        def __init__(self, root, train, download=False):
            n = 100 if train else 20
            self.data = np.zeros((n, 32, 32, 3), np.uint8)
            self.data[..., 1] = 255
            self.targets = [i % 10 for i in range(n)]

    monkeypatch.setattr(torchvision_datasets, "CIFAR10", Archive)
    (tmp_path / Archive.base_folder).mkdir()
    splits = load("cifar10", data_dir=tmp_path)
    assert splits.test.pixels.shape == (20, 3, 32, 32)
    assert splits.spec.mean == (0.0, 1.0, 0.0)
    assert splits.spec.flip
    assert splits.spec.padding == 4


def test_a_failed_download_is_explained(tmp_path, monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision_datasets, "MNIST", offline)
    with pytest.raises(RequestError, match="no data folder"):
        load("mnist", download=True)
    with pytest.raises(SecateurError, match=r"cannot download MNIST(.|\n)*network is unreachable"):
        load("mnist", data_dir=tmp_path, download=True)


def test_impossible_requests_are_refused():
    with pytest.raises(RequestError, match="unknown data set 'digit'"):
        load("digit")
    for share in (0, 1, -0.1, 1.5):
        with pytest.raises(RequestError, match="validation share"):
            load("digits", validation=share)
    with pytest.raises(RequestError, match="image size is 0"):
        load("digits", image_size=0)
    assert list(datasets) == ["cifar10", "cifar100", "digits", "fake", "fashion-mnist", "mnist"]


def test_stratified_takes_the_share_of_every_class_and_keeps_the_rest():
    labels = torch.tensor([0] * 10 + [1] * 40 + [2] * 3)
    kept, taken = stratified(labels, 0.2, seed=5)
    assert sorted(torch.cat([kept, taken]).tolist()) == list(range(53))
    assert torch.bincount(labels[taken]).tolist() == [2, 8, 1]


def test_a_class_of_one_image_cannot_be_split():
    pixels, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1])
    with pytest.raises(RequestError, match="class 1 has 1 image"):
        split("tiny", RawData(pixels, labels, pixels, labels, ("a", "b"), flip=False))
