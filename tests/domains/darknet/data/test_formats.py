import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from secateur.domains.darknet.data import convert, formats, read
from secateur.domains.darknet.data.readers import oxford_hand
from secateur.errors import DataError, RequestError


def write_image(path, width=40, height=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (200, 100, 50)).save(path)


def boxes_of(sample):
    return [
        (c, *(round(v, 4) for v in box))
        for c, box in zip(sample.labels.classes.tolist(), sample.labels.boxes.tolist(), strict=True)
    ]


def write_yolo(root):
    for part, stems in (("train", "ab"), ("valid", "c")):
        for stem in stems:
            write_image(root / "images" / part / f"{stem}.jpg")
        (root / f"{part}.txt").write_text("".join(f"images/{part}/{stem}.jpg\n" for stem in stems))
        (root / "labels" / part).mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n")
    (root / "labels/train/b.txt").write_text("\n")
    (root / "labels/valid/c.txt").write_text("0 0.5 0.5 1 1\n")
    (root / "pets.names").write_text("cat\ndog\n")
    (root / "pets.data").write_text(
        "classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = pets.names\nbackup = backup\n"
    )
    return root


def write_coco(root):
    write_image(root / "val2017" / "7.jpg")
    write_image(root / "val2017" / "8.jpg", 100, 100)
    data = {
        "images": [
            {"id": 7, "file_name": "7.jpg", "width": 40, "height": 20},
            {"id": 8, "file_name": "8.jpg", "width": 100, "height": 100},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 20, 10], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1},
            {"id": 3, "image_id": 8, "category_id": 3, "bbox": [50, 50, 50, 50]},
        ],
    }
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    return path


VOC = """<annotation><filename>{stem}.jpg</filename>
<size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox></object></annotation>"""


def write_voc(root):
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for stem, name, difficult in (("a", "dog", 0), ("b", "cat", 1), ("c", "cat", 0)):
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations" / f"{stem}.xml").write_text(
            VOC.format(stem=stem, name=name, difficult=difficult)
        )
    (root / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (root / "ImageSets/Main/val.txt").write_text("c\n")
    return root


def hand(*corners):
    return {name: np.array([corner], dtype=float) for name, corner in zip("abcd", corners, strict=True)}


def write_hands(root):
    for part in ("training_dataset/training_data", "validation_dataset/validation_data"):
        write_image(root / part / "images" / "x_1.jpg")
        (root / part / "annotations").mkdir()
        boxes = np.empty((1, 2), dtype=object)
        # Corners are (row, column): a hand of rows 5.5 to 15.5 and columns 10.5 to 30.5, slanted and upright.
        boxes[0, 0] = hand((5.5, 20.5), (10.5, 30.5), (15.5, 20.5), (10.5, 10.5))
        boxes[0, 1] = hand((0.5, 0.5), (0.5, 40.5), (20.5, 40.5), (20.5, 0.5))
        savemat(root / part / "annotations" / "x_1.mat", {"boxes": boxes})
    return root


@pytest.fixture
def root(tmp_path):
    return tmp_path


def test_yolo_reads_a_data_file_a_list_a_folder_alike(root):
    write_yolo(root)
    whole = read(root / "pets.data")
    assert whole.names == ("cat", "dog")
    assert boxes_of(whole["train"][0]) == [(1, 0.5, 0.5, 0.25, 0.5), (0, 0.25, 0.25, 0.5, 0.5)]
    assert len(whole["train"][1].labels) == 0
    listed = read(root / "valid.txt")
    assert boxes_of(listed["valid"][0]) == boxes_of(whole["valid"][0]) == [(0, 0.5, 0.5, 1, 1)]
    (root / "pets.data").unlink()
    folder = read(root)
    assert folder.names == whole.names
    for part in ("train", "valid"):
        assert [boxes_of(s) for s in folder[part]] == [boxes_of(s) for s in whole[part]]


def test_coco_numbers_classes_by_category_id_and_keeps_crowds_as_ignored(root):
    annotations = read(write_coco(root), "coco")
    assert annotations.names == ("cat", "dog")
    seven, eight = annotations["valid"]
    assert seven.image.is_file()
    assert boxes_of(seven) == [(1, 0.5, 0.5, 0.5, 0.5), (0, 0.5, 0.5, 1, 1)]
    assert seven.labels.ignored.tolist() == [False, True]
    assert boxes_of(eight) == [(0, 0.75, 0.75, 0.5, 0.5)]
    assert [len(s.labels) for s in read(root, "coco", names=("dog",), strict=False)["valid"]] == [1, 0]


def test_voc_counts_pixels_from_one_and_keeps_difficult_as_ignored(root):
    annotations = read(write_voc(root), "voc")
    assert annotations.names == ("cat", "dog")
    a, b = annotations["train"]
    assert boxes_of(a) == [(1, 0.5, 0.5, 0.5, 0.5)]
    assert (a.labels.ignored.tolist(), b.labels.ignored.tolist()) == ([False], [True])
    assert a.image.is_file()
    assert len(annotations["valid"]) == 1


def test_oxford_hand_takes_the_upright_box_around_the_corners(root):
    annotations = read(write_hands(root), "oxford-hand")
    assert annotations.names == ("hand",)
    (sample,) = annotations["train"]
    assert boxes_of(sample) == [(0, 0.5, 0.5, 0.5, 0.5), (0, 0.5, 0.5, 1, 1)]
    assert len(annotations["valid"]) == 1


def test_oxford_hand_with_one_box_or_an_extra_field(root):
    write_hands(root)
    path = root / "training_dataset/training_data/annotations/x_1.mat"
    boxes = np.empty((1, 1), dtype=object)
    boxes[0, 0] = {**hand((5.5, 20.5), (10.5, 30.5), (15.5, 20.5), (10.5, 10.5)), "side": "L"}
    savemat(path, {"boxes": boxes})
    assert boxes_of(read(root, "oxford-hand")["train"][0]) == [(0, 0.5, 0.5, 0.5, 0.5)]


def test_a_broken_mat_file_is_named(root):
    path = write_hands(root) / "training_dataset/training_data/annotations/x_1.mat"
    path.write_bytes(b"no matlab" * 40)
    with pytest.raises(DataError, match=r"x_1\.mat: not of the hand"):
        read(root, "oxford-hand")
    savemat(path, {"other": 1})
    with pytest.raises(DataError, match=r"x_1\.mat: not of the hand"):
        read(root, "oxford-hand")


@pytest.mark.parametrize(
    ("format", "write"),
    [("yolo", write_yolo), ("coco", write_coco), ("voc", write_voc), ("oxford-hand", write_hands)],
)
@pytest.mark.parametrize("images", ["link", "copy"])
def test_a_converted_data_set_reads_as_the_original(root, format, write, images):
    (root / "source").mkdir()
    source = write(root / "source")
    report = convert(source, format, root / "made", images=images)
    before, after = read(source, format), read(root / "made" / "made.data")
    assert after.names == before.names
    assert sum(report.images.values()) == sum(map(len, before.parts.values()))
    for part, samples in before.parts.items():
        for old, new in zip(samples, after[part], strict=True):
            kept = old.labels[~old.labels.ignored]
            assert torch.equal(kept.classes, new.labels.classes)
            assert torch.allclose(kept.boxes, new.labels.boxes, atol=1e-6)
            assert new.image.read_bytes() == old.image.read_bytes()
            assert new.image.is_symlink() == (images == "link")
    assert f"wrote {root / 'made' / 'made.data'}" in str(report)


def test_every_registered_format_is_among_those_converted():
    assert set(formats) == {"yolo", "coco", "voc", "oxford-hand"}


def test_ignored_boxes_are_counted_or_kept(root):
    (root / "source").mkdir()
    source = write_voc(root / "source")
    report = convert(source, "voc", root / "without")
    assert (report.dropped, report.boxes) == (1, {"train": 1, "valid": 1})
    assert "1 difficult or crowd boxes" in str(report)
    assert convert(source, "voc", root / "with", keep_ignored=True).boxes == {"train": 2, "valid": 1}


def test_images_of_one_stem_do_not_share_a_label_file(root):
    (root / "source").mkdir()
    path = write_coco(root / "source")
    data = json.loads(path.read_text())
    data["images"][1]["file_name"] = "sub/7.png"
    path.write_text(json.dumps(data))
    write_image(root / "source" / "val2017" / "sub" / "7.png", 100, 100)
    convert(path, "coco", root / "made")
    assert [len(sample.labels) for sample in read(root / "made")["valid"]] == [1, 1]
    assert {sample.image.name for sample in read(root / "made")["valid"]} == {"7.jpg", "7-2.png"}


def test_missing_images_are_left_out_and_named(root):
    (root / "source").mkdir()
    source = write_yolo(root / "source")
    (source / "images/train/b.jpg").unlink()
    report = convert(source, "yolo", root / "made")
    assert report.images == {"train": 1, "valid": 1}
    assert report.missing == (str(source / "images/train/b.jpg"),)


def test_a_folder_that_is_not_empty_is_not_written_to(root):
    write_yolo(root)
    with pytest.raises(RequestError, match="not an empty folder"):
        convert(root, "yolo", root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.25", r"a\.txt:2: '1 0.5 0.5 0.25' is not"),
        ("1 0.5 0.5 0.25 x", r"a\.txt:2: .* is not"),
        ("1.5 0.5 0.5 0.25 0.5", r"a\.txt:2: .* is not"),
        ("2 0.5 0.5 0.25 0.5", r"a\.txt:2: class 2 is not in 0\.\.1"),
        ("-1 0.5 0.5 0.25 0.5", r"a\.txt:2: class -1"),
        ("1 1.5 0.5 0.25 0.5", r"a\.txt:2: .* centre outside"),
        ("1 0.5 nan 0.25 0.5", r"a\.txt:2: .* not finite"),
        ("1 0.5 0.5 0 0.5", r"a\.txt:2: .* no area"),
        ("1 0.5 0.5 40 20", r"a\.txt:2: .* larger than the image"),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_can_be_left_out(root, line, message):
    write_yolo(root)
    (root / "labels/train/a.txt").write_text(f"1 0.5 0.5 0.25 0.5\n{line}\n")
    with pytest.raises(DataError, match=message):
        read(root)
    lenient = read(root, strict=False)
    assert boxes_of(lenient["train"][0]) == [(1, 0.5, 0.5, 0.25, 0.5)]
    assert [problem.fatal for problem in lenient.problems] == [True]


def test_a_box_over_the_edge_is_clipped_with_a_warning_a_rounding_is_not_reported(root):
    write_yolo(root)
    (root / "labels/train/a.txt").write_text("1 0.9 0.5 0.4 0.5\n0 0.5 0.5 1.000001 1\n")
    annotations = read(root)
    assert boxes_of(annotations["train"][0]) == [(1, 0.85, 0.5, 0.3, 0.5), (0, 0.5, 0.5, 1, 1)]
    (problem,) = annotations.problems
    assert not problem.fatal
    assert str(problem).endswith(
        "a.txt:1: the box reaches 10.0% of the image's size out of the image: clipped"
    )


def test_an_empty_label_folder_is_an_error_that_says_where_it_looked(root):
    write_yolo(root)
    shutil.rmtree(root / "labels")
    with pytest.raises(DataError, match=r"(?s)has a label file.*looked for .*labels/train/a\.txt"):
        read(root)


def test_empty_label_files_only_are_an_error(root):
    write_yolo(root)
    for path in (root / "labels/train").glob("*.txt"):
        path.write_text("")
    with pytest.raises(DataError, match=r"none of the 2 images of .* has a box"):
        read(root)


def test_an_image_without_a_label_file_is_a_background_with_a_warning(root):
    write_yolo(root)
    (root / "labels/train/b.txt").unlink()
    annotations = read(root)
    assert len(annotations["train"][1].labels) == 0
    assert "1 images have no label file" in str(annotations.problems[0])


def test_names_that_do_not_fit_the_data_file_are_an_error(root):
    write_yolo(root)
    (root / "pets.names").write_text("cat\n")
    with pytest.raises(DataError, match="says classes = 2, but there are 1 names"):
        read(root)


def test_labels_beside_the_images_are_found(root):
    write_image(root / "a.jpg")
    (root / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (root / "train.txt").write_text(f"{root / 'a.jpg'}\n")
    annotations = read(root / "train.txt")
    assert len(annotations["train"][0].labels) == 1
    assert "no class names" in str(annotations.problems[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("images"), "has no list 'images'"),
        (lambda data: data["annotations"][0].pop("bbox"), "not of COCO's instances format"),
        (lambda data: data["images"][0].update(width=0), "not of COCO's instances format"),
        (lambda data: data["annotations"][0].update(category_id=5), "annotation 1: there is no category 5"),
        (lambda data: data["annotations"][0].update(image_id=5), "annotation 1: there is no image 5"),
        (lambda data: data["annotations"][0].update(bbox=[90, 5, 20, 10]), "annotation 1: .* outside"),
    ],
)
def test_coco_that_does_not_fit_is_named(root, change, message):
    path = write_coco(root)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        read(path, "coco")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</object>", "", r"a\.xml: not XML: .* line"),
        ("<width>40</width>", "", r"a\.xml: there is no size"),
        ("<xmin>11</xmin>", "", r"a\.xml: object 1: .* not finite"),
        ("<name>dog</name>", "", r"a\.xml: object 1: it has no name"),
    ],
)
def test_voc_that_does_not_fit_is_named(root, old, new, message):
    path = write_voc(root) / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        read(root, "voc")


def test_voc_lists_of_images_without_xml_are_an_error(root):
    write_voc(root)
    (root / "ImageSets/Main/val.txt").write_text("c\nnone\n")
    with pytest.raises(DataError, match=r"val\.txt:2: none"):
        read(root, "voc")


@pytest.mark.parametrize("format", sorted(formats))
def test_a_source_that_is_missing_or_empty_is_an_error(root, format):
    with pytest.raises(RequestError, match="there is no"):
        read(root / "nothing", format)
    (root / "empty").mkdir()
    with pytest.raises(DataError):
        read(root / "empty", format)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["annotations"][0].update(bbox=["a", 0, 1, 1]),
        lambda data: data["annotations"][0].update(bbox=None),
        lambda data: data["annotations"].append(3),
        lambda data: data["annotations"][0].update(image_id=[7]),
        lambda data: data["annotations"][0].update(category_id={}),
        lambda data: data["images"][0].update(file_name=None),
        lambda data: data["images"][0].update(id=[7]),
        lambda data: data["images"].append([]),
        lambda data: data["images"][0].update(width=float("nan")),
        lambda data: data["categories"][0].update(id="dog"),
        lambda data: data["categories"].append({"id": 1}),
    ],
)
def test_coco_with_values_of_another_kind_is_named(root, change):
    path = write_coco(root)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(
        DataError, match=r"is not of COCO's instances format(.|\n)*(annotations|images|categories)\."
    ):
        read(path, "coco", strict=False)


@pytest.mark.parametrize("content", [b"[" * 5000, b'{"images": ' + b"9" * 5000 + b"}", b"\xff", b"", b"3"])
def test_what_is_no_json_of_coco_is_named(root, content):
    path = write_coco(root)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"instances_val2017\.json (is not|has no list)"):
        read(path, "coco")


@pytest.mark.parametrize("name", ["a\0b.jpg", "d/" * 3000 + "x.jpg"])
def test_a_file_name_that_no_file_system_takes_is_a_missing_image(root, name):
    path = write_coco(root)
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = name
    path.write_text(json.dumps(data))
    assert len(read(path, "coco", strict=False)["valid"]) == 2
    (root / "val2017" / "8.jpg").unlink()
    with pytest.raises(DataError, match=r"all 2 images of (.|\n)* are missing"):
        read(path, "coco")


def test_a_list_of_voc_that_is_no_text_is_named(root):
    write_voc(root)
    (root / "ImageSets/Main/train.txt").write_bytes("ä\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read .*train\.txt"):
        read(root, "voc")


@pytest.mark.parametrize("head", ['<?xml version="1.0" encoding="nonsense"?>', '<?xml encoding="utf-7"?>'])
def test_xml_in_an_unknown_encoding_is_named(root, head):
    write_voc(root)
    path = root / "Annotations" / "a.xml"
    path.write_text(head + path.read_text())
    with pytest.raises(DataError, match=r"a\.xml: not XML"):
        read(root, "voc")


YOLO = {
    "the root as an image": ({"train.txt": "/\n"}, r"train\.txt:1: '/' names no image"),
    "folders as images": ({"train.txt": "..\n.\n"}, "none of the 2 images"),
    "a null byte": ({"train.txt": "a\0b.jpg\n"}, "names no image"),
    "a path without end": ({"train.txt": "d/" * 3000 + "x.jpg\n"}, "has a label file"),
    "a class of 30 digits": (
        {"labels/train/a.txt": f"{10**30} 0.5 0.5 1 1\n"},
        r"class 10{19} is not in 0\.\.1",
    ),
    "a million million classes": ({"pets.data": f"classes={10**12}\ntrain=train.txt\n"}, "no integer from 0"),
    "classes in other digits": ({"pets.data": "classes=²\ntrain=train.txt\n"}, "classes=² is no integer"),
    "the whole file system": ({"pets.data": "classes=2\ntrain=/\n"}, "/ is the whole file system"),
    "a list that is too long a name": ({"pets.data": f"classes=2\ntrain={'t' * 5000}\n"}, "cannot read"),
}


@pytest.mark.parametrize("name", YOLO)
def test_files_of_yolo_that_say_what_cannot_be_are_named(root, name):
    write_yolo(root)
    files, message = YOLO[name]
    for path, text in files.items():
        (root / path).write_text(text)
    with pytest.raises((DataError, RequestError), match=message):
        read(root / "pets.data")


def test_a_large_class_without_names_makes_no_names(root):
    write_yolo(root)
    (root / "pets.names").unlink()
    (root / "labels/train/a.txt").write_text("2000000000 0.5 0.5 1 1\n")
    with pytest.raises(DataError, match=r"class 2000000000 is not in 0\.\.65535"):
        read(root / "train.txt")


def test_a_picture_without_pixels_is_a_broken_one(root, monkeypatch):
    write_hands(root)
    monkeypatch.setattr(oxford_hand, "image_size", lambda path: (0, 0))
    found = read(root, "oxford-hand", strict=False)
    assert {problem.what for problem in found.problems} == {"the image is missing or broken: no boxes"}
