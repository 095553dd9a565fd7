"""One meaning each: the names of classes."""

import ast
from collections import Counter
from pathlib import Path

import secateur

TWINS = {"ChannelCallback", "MaskCallback"}
"""The same work in two trainers, as the glossary says."""


def test_a_class_that_others_import_has_a_name_of_its_own() -> None:
    files = Path(secateur.__file__).parent.rglob("*.py")
    nodes = [node for file in files for node in ast.parse(file.read_text("utf-8")).body]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    shared = {name for name, count in names.items() if count > 1 and not name.startswith("_")}
    assert shared == TWINS
