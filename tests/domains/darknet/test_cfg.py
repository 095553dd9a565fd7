import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.domains.darknet import Darknet
from secateur.domains.darknet.cfg import NET, bundled_cfgs, parse_cfg, read_cfg, write_cfg
from secateur.errors import RequestError

ODD = (
    "\ufeff; made by hand\r\n\r\n[ net ]\r\n  width = 32 # small\r\nheight=32\r\n# [yolo]\r\n"
    "[convolutional]  ; first\nfilters=8\t\n unknown_key = a b=c  # kept\n\n\n#end without newline"
)


@pytest.mark.parametrize("name", bundled_cfgs())
def test_bundled_text_survives_byte_for_byte(name, tmp_path):
    config = read_cfg(name)
    path = write_cfg(config, tmp_path / "copy.cfg")
    assert read_cfg(path).text == config.text
    assert path.read_bytes() == config.text.encode()
    assert len(config.sections) > 20


def test_comments_order_unknown_keys_and_spacing_survive():
    config = parse_cfg(ODD)
    assert config.text == ODD
    assert [section.name for section in config.sections] == ["convolutional"]
    assert dict(config.net.options) == {"width": "32", "height": "32"}
    assert dict(config.layer(0).options) == {"filters": "8", "unknown_key": "a b=c"}


def test_bytes_that_are_no_utf8_survive(tmp_path):
    content = b"[net]\nwidth=32\n# caf\xe9\n"
    (tmp_path / "a.cfg").write_bytes(content)
    path = write_cfg(read_cfg(tmp_path / "a.cfg"), tmp_path / "b.cfg")
    assert path.read_bytes() == content


def test_a_changed_value_rewrites_only_its_line():
    changed = parse_cfg(ODD).replaced(0, filters=5).replaced(NET, width=64)
    assert changed.text == ODD.replace("filters=8\t", "filters=5\t").replace("width = 32 #", "width = 64 #")


def test_a_value_that_stays_leaves_its_line():
    assert parse_cfg(ODD).replaced(0, filters=8, unknown_key="a b=c").text == ODD


def test_a_new_key_stands_behind_the_last_option():
    changed = parse_cfg(ODD).replaced(0, groups=2)
    assert changed.text == ODD.replace("# kept\n", "# kept\ngroups=2\n")
    assert changed.layer(0)["groups"] == "2"
    assert parse_cfg("[net]\n[route]").replaced(0, layers=-1).text == "[net]\n[route]\nlayers=-1\n"


def test_the_original_is_not_changed():
    config = read_cfg("digits")
    text = config.text
    config.replaced(0, filters=1)
    assert config.text == text


def test_lines_are_those_of_the_file():
    config = read_cfg("yolov4-tiny")
    lines = config.text.splitlines()
    for index, section in enumerate(config.sections):
        assert lines[config.line(index) - 1] == f"[{section.name}]"
        for key, value in section.options.items():
            assert lines[config.line(index, key) - 1] == f"{key}={value}"


def test_lines_follow_an_inserted_key():
    config = read_cfg("digits").replaced(0, groups=1)
    assert config.text.splitlines()[config.line(5) - 1] == "[convolutional]"


@given(st.text(alphabet="abc=#;[]\n\r\t 1,-", max_size=60))
def test_whatever_is_read_is_written_back(text):
    try:
        config = parse_cfg(f"[net]\n{text}")
    except RequestError:
        return
    assert config.text == f"[net]\n{text}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[net]\nwidth=1\nnonsense\n", "net.cfg:3: 'nonsense' is no option"),
        ("width=1\n[net]\n", "net.cfg:1: 'width=1' stands before the first section"),
        ("[convolutional]\nfilters=1\n", "net.cfg: the first section is convolutional, not [net]"),
        ("# empty\n", "net.cfg: the first section is nothing, not [net]"),
        ("[net]\n[route]\nlayers=1\nlayers=2\n", "net.cfg:3: layers=1 and layers=2 in one section"),
    ],
)
def test_errors_name_file_and_line(text, message):
    with pytest.raises(RequestError, match=r"net\.cfg") as caught:
        parse_cfg(text, "net.cfg")
    assert str(caught.value).startswith(message)


def test_a_key_twice_with_one_value_is_no_error():
    assert parse_cfg("[net]\n[route]\nlayers=1\nlayers = 1\n").layer(0)["layers"] == "1"


def test_unknown_names_get_a_suggestion(tmp_path):
    with pytest.raises(RequestError, match="did you mean 'yolov3-tiny'"):
        read_cfg("yolov3-tny")
    with pytest.raises(RequestError, match="bundled: digits"):
        read_cfg(tmp_path / "absent.cfg")


def test_a_file_comes_before_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("[net]\nwidth=7\n")
    assert read_cfg("digits").net["width"] == "7"


BROKEN = {
    "more than 32 bits": ("filters=2147483648", "has more than 32 bits"),
    "hundreds of digits": (f"filters={'9' * 400}", "has more than 32 bits"),
    "thousands of digits": (f"filters={'9' * 5000}", "is no integer"),
    "a kernel of many gigabytes": ("filters=1000000\nsize=1001\npad=1", "the kernel has"),
    "infinite layers": ("filters=8\n[route]\nlayers=inf", "no number"),
    "anchors that are none": ("filters=8\n[yolo]\nanchors=nan,2\nnum=1\nmask=0\nclasses=1", "no number"),
    "a line without end": ("filters=8\nx=" + " " * 200_000 + "y", "the line has 200,004 characters"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_numbers_that_no_network_has_are_named_before_memory_is_asked_for(name):
    text, message = BROKEN[name]
    with pytest.raises(RequestError, match=message):
        Darknet(parse_cfg(f"[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\n{text}\n", "net.cfg"))


def test_layers_that_are_too_much_together_are_refused():
    layer = "[convolutional]\nfilters=10000\nsize=1\n"
    head = "[convolutional]\nfilters=6\nsize=1\n[yolo]\nanchors=1,2\nnum=1\nmask=0\nclasses=1\n"
    cfg = parse_cfg("[net]\nwidth=32\nheight=32\nchannels=3\n" + layer * 4 + head, "net.cfg")
    with pytest.raises(RequestError, match=r"net.cfg makes a network of 300,\d+,\d+ parameters"):
        Darknet(cfg)


def test_a_comment_may_be_long():
    assert parse_cfg("[net]\n# " + "x" * 100_000 + "\n", "net.cfg").net.name == "net"


def test_a_line_of_white_space_takes_linear_steps():
    """Found by fuzzing: each place of a run of white space was the start of a search to its end."""
    code = (
        "from secateur.domains.darknet.cfg import _OPTION\n"
        "assert _OPTION.fullmatch('anchors=1,2' + ' ' * 300_000 + ']x')['value'].endswith(']x')\n"
        "assert _OPTION.fullmatch('a' + ' ' * 300_000 + 'b') is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)  # it took hours
