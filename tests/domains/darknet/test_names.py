import pytest

from secateur.domains.darknet.names import read_data, read_names, write_data, write_names
from secateur.errors import RequestError


def test_names_and_data_survive(tmp_path):
    names = write_names(["traffic light", "dog"], tmp_path / "a.names")
    assert read_names(names) == ["traffic light", "dog"]
    path = write_data({"classes": 2, "names": names, "backup": "b"}, tmp_path / "a.data")
    data = read_data(path)
    assert data.classes == 2
    assert data.find("names") == names


def test_paths_count_from_the_file_then_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    write_names(["beside"], tmp_path / "there/a.names")
    data = read_data(write_data({"names": "a.names"}, tmp_path / "there/a.data"))
    write_names(["working"], tmp_path / "here/a.names")
    monkeypatch.chdir(tmp_path / "here")
    assert read_names(data.find("names")) == ["beside"]
    (tmp_path / "there/a.names").unlink()
    assert read_names(data.find("names")) == ["working"]


def test_data_files_may_have_comments_and_spaces(tmp_path):
    (tmp_path / "a.data").write_text("classes= 20\n#valid = old.txt\ntrain  = train.txt\n\n")
    assert dict(read_data(tmp_path / "a.data").values) == {"classes": "20", "train": "train.txt"}


@pytest.mark.parametrize(
    ("text", "ask", "message"),
    [
        ("classes=2\n", lambda data: data.find("train"), "names no train"),
        ("classes=two\n", lambda data: data.classes, "classes=two is no integer"),
        ("train=gone.txt\n", lambda data: data.find("train"), "train=gone.txt does not exist"),
    ],
)
def test_what_data_does_not_say_is_an_error(tmp_path, text, ask, message):
    (tmp_path / "a.data").write_text(text)
    with pytest.raises(RequestError, match=message):
        ask(read_data(tmp_path / "a.data"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n\nb\n", "a.names:2: the line is empty"), ("\n", "names no class")],
)
def test_bad_names_are_an_error(tmp_path, text, message):
    (tmp_path / "a.names").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_names(tmp_path / "a.names")


def test_a_bad_line_or_a_missing_file_is_an_error(tmp_path):
    (tmp_path / "a.data").write_text("classes=2\nnonsense\n")
    with pytest.raises(RequestError, match=r"a\.data:2: 'nonsense'"):
        read_data(tmp_path / "a.data")
    (tmp_path / "b.data").write_text("classes=2\nclasses=3\n")
    with pytest.raises(RequestError, match=r"b\.data:2: classes=3, and classes=2 before"):
        read_data(tmp_path / "b.data")
    with pytest.raises(RequestError, match="cannot read the names file"):
        read_names(tmp_path / "absent.names")
