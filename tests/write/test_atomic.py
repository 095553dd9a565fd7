import contextlib
import errno
import os
import resource

import pytest

from secateur.errors import SecateurError
from secateur.write.atomic import atomic_folder, atomic_write


def content_of(folder):
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    atomic_write(tmp_path / "new" / "plan.json", b"old")
    atomic_write(tmp_path / "new" / "plan.json", lambda path: path.write_text("new"))
    assert content_of(tmp_path) == {"plan.json": "new"}


def test_the_temporary_file_has_the_suffix_and_usual_permissions(tmp_path):
    seen = []
    atomic_write(tmp_path / "model.onnx", lambda path: (seen.append(path), path.write_bytes(b""))[1])
    assert seen[0].suffix == ".onnx"
    assert seen[0].parent == tmp_path
    (tmp_path / "ordinary").write_bytes(b"")
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("failing", [ValueError("broken writer"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, failing):
    (tmp_path / "plan.json").write_text("old")

    def write(path):
        path.write_text("half")
        raise failing

    with pytest.raises(type(failing)):
        atomic_write(tmp_path / "plan.json", write)
    assert content_of(tmp_path) == {"plan.json": "old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch, call):
    (tmp_path / "plan.json").write_text("old")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(SecateurError, match=r"no space to write .*plan.json(.|\n)*free some space"):
        atomic_write(tmp_path / "plan.json", b"new")
    monkeypatch.undo()
    assert content_of(tmp_path) == {"plan.json": "old"}


def test_a_file_beyond_the_limit_of_the_system_is_refused_by_the_system_itself(tmp_path):
    (tmp_path / "weights").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(SecateurError, match="no space to write"):
            atomic_write(tmp_path / "weights", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content_of(tmp_path) == {"weights": "old"}


def test_a_place_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(SecateurError, match=r"cannot write .*plan.json: (File exists|Not a directory)"):
        atomic_write(tmp_path / "file" / "plan.json", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SecateurError, match=r"cannot write .*folder: Is a directory"):
        atomic_write(tmp_path / "folder", b"new")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "half") as folder:
        (folder / "plan.json").write_text("{}")
        assert not (tmp_path / "half").exists()
    assert content_of(tmp_path / "half") == {"plan.json": "{}"}
    with contextlib.suppress(KeyboardInterrupt), atomic_folder(tmp_path / "other") as folder:
        (folder / "plan.json").write_text("{}")
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["half"]


def test_an_existing_folder_is_not_replaced(tmp_path):
    with pytest.raises(SecateurError, match="exists already"), atomic_folder(tmp_path):
        pass
    assert tmp_path.is_dir()
