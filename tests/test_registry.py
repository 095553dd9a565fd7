import sys

import pytest

from secateur.errors import RequestError
from secateur.registry import Registry


def test_two_plug_ins_of_one_name_are_an_error():
    registry = Registry("colour")
    registry.add("red", 1)
    with pytest.raises(ValueError, match="two plug-ins are called colour 'red'"):
        registry.add("red", 2)


def test_an_unknown_name_gets_a_suggestion_and_the_known_ones():
    registry = Registry("colour")
    registry.add("green", 1)
    registry.add("blue", 2)
    with pytest.raises(RequestError) as caught:
        registry["gren"]
    assert str(caught.value) == ("unknown colour 'gren'\n  known: blue, green\n  did you mean 'green'?")
    with pytest.raises(RequestError, match="choose a known colour"):
        registry["x"]
    assert caught.value.exit_code == 2


def test_a_registry_is_a_mapping_in_alphabetical_order():
    registry = Registry("colour")

    @registry("red")
    def red():
        return 1

    registry.add("blue", 2)
    assert list(registry) == ["blue", "red"]
    assert registry["red"] is red
    assert len(registry) == 2
    assert "red" in registry
    assert "green" not in registry


def test_every_module_of_the_folder_is_imported_on_first_look_up(tmp_path, monkeypatch):
    folder = tmp_path / "plug_in_folder"
    folder.mkdir()
    (folder / "__init__.py").write_text("from secateur.registry import Registry\n")
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(
            f"import plug_in_registry\nplug_in_registry.things.add('{name}', '{name}')\n"
        )
    (tmp_path / "plug_in_registry.py").write_text(
        "from secateur.registry import Registry\nthings = Registry('thing', 'plug_in_folder')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import plug_in_registry

    assert "plug_in_folder.one" not in sys.modules
    assert dict(plug_in_registry.things) == {"one": "one", "two": "two"}
    assert "plug_in_folder.one" in sys.modules
