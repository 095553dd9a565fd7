"""What a pickle that asks for a name without end costs: nothing, as PyTorch's reader is not asked."""

import io
import zipfile

import pytest
import torch
from torch import nn

from secateur.errors import CheckpointError
from secateur.write.pickles import read_torch

STATE = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


@pytest.mark.parametrize("is_archive", [True, False])
def test_what_torch_saved_is_read(tmp_path, is_archive):
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=is_archive)
    found = read_torch(tmp_path / "w.pth")
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def _long(ending):
    return b"\x80\x02c" + b"d/" * 5_000 + ending


@pytest.mark.parametrize("ending", [b"\nname\n.", b""], ids=["whole", "without an end"])
@pytest.mark.parametrize("form", ["archive", "plain", "second pickle"])
def test_a_name_without_end_is_refused_before_pytorch_reads_it(tmp_path, monkeypatch, form, ending):
    file = tmp_path / "w.pth"
    if form == "archive":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("w/data.pkl", _long(ending))
            archive.writestr("w/version", "3\n")
    else:
        file.write_bytes((b"\x80\x02K\x01." if form == "second pickle" else b"") + _long(ending))

    def never(*_, **__):
        raise AssertionError("PyTorch was asked")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(CheckpointError, match="it holds more than tensors"):
        read_torch(file)


def test_a_truncated_file_is_said_to_be_one(tmp_path):
    held = io.BytesIO()
    torch.save({**STATE, "big": torch.rand(4_000)}, held, _use_new_zipfile_serialization=False)
    (tmp_path / "w.pth").write_bytes(held.getvalue()[:300])
    with pytest.raises(CheckpointError, match="truncated"):
        read_torch(tmp_path / "w.pth")
