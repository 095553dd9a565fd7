"""`secateur export`: the file, what is said of it, and what is refused."""

import pytest

TINY = ("--arg", "width=0.0625")


@pytest.fixture(autouse=True, scope="module")
def _packages():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")


def test_the_last_line_says_what_was_written(run, tmp_path):
    outcome = run("export", "zoo:vgg11", tmp_path / "dense.onnx", *TINY)
    assert outcome.code in (0, None), outcome.err
    last = outcome.out.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'dense.onnx'}: ")
    assert "read back by onnxruntime 1." in last
    assert (tmp_path / "dense.onnx").is_file()


def test_a_pruned_folder_becomes_a_file(run, studio, tmp_path):
    made = run("export", studio.pruned, tmp_path / "pruned.onnx", "--json").json
    assert made["format"] == "onnx"
    assert made["size_bytes"] == (tmp_path / "pruned.onnx").stat().st_size
    assert made["reader"].startswith("onnxruntime ")
    assert len(made["errors"]) == 2
    assert max(made["errors"].values()) < 1e-4


def test_a_state_dict_of_a_folder_is_read_in_a_fresh_process(run, studio, tmp_path):
    outcome = run("export", studio.pruned, tmp_path / "plain", "--format", "state-dict")
    assert outcome.code in (0, None), outcome.err
    assert "note: rebuild.py is Python" in outcome.out
    assert "in this process" not in outcome.out
    assert sorted(one.name for one in (tmp_path / "plain").iterdir()) == ["model.safetensors", "rebuild.py"]


def test_what_makes_no_sense_is_refused_in_the_words_of_the_command_line(refuse, tmp_path):
    assert "pass --format to choose one" in refuse(2, "export", "zoo:vgg11", tmp_path / "dense.xyz", *TINY)
    (tmp_path / "there.onnx").write_text("before")
    assert "or pass --overwrite" in refuse(2, "export", "zoo:vgg11", tmp_path / "there.onnx", *TINY)
    assert "did you mean 'onnx'?" in refuse(2, "export", "zoo:vgg11", "a", "--format", "onx", *TINY)


def test_norms_are_folded_where_that_is_asked_for(run, refuse, tmp_path):
    words = ("zoo:vgg11", *TINY, "--fold")
    outcome = run("export", words[0], tmp_path / "dense.pt2", *words[1:])
    assert outcome.code in (0, None), outcome.err
    assert "note: 8 of 8 batch norms were folded into the layers before them: folded ==" in outcome.out
    message = refuse(1, "export", words[0], tmp_path / "plain", *words[1:], "--format", "state-dict")
    assert "leave --fold out, or choose onnx or pt2 or torchscript" in message
