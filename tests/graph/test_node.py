import ast
from pathlib import Path

import secateur.graph
from secateur.graph.node import Graph, Node, Ref, Value, literals_in, refs_in


def test_references_and_literals_of_nested_arguments_are_found():
    arg = (Ref(1), 2, (Ref(3), None, True), "text")
    assert list(refs_in(arg)) == [Ref(1), Ref(3)]
    assert list(literals_in(arg, ("size",))) == [
        (("size", 1), 2),
        (("size", 2, 2), True),
        (("size", 3), "text"),
    ]


def test_a_node_names_its_module_and_its_line():
    node = Node(3, "aten.relu", "default", {}, (), ("", "layer1.0"), "resnet.py:93")
    assert str(node) == "aten.relu (node 3) in layer1.0 at resnet.py:93"
    assert str(Node(3, "aten.relu", "default", {}, ())) == "aten.relu (node 3)"


def test_tied_tensors_share_a_value():
    graph = Graph((), (Value((2,), "float32", "parameter"),), {"a": 0, "b": 0}, (), ())
    assert graph.names == {0: ("a", "b")}
    assert "1 tensors" in str(graph)


def test_the_algebra_imports_no_torch():
    for path in Path(secateur.graph.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" for name in names), path


def test_a_graph_knows_who_makes_and_who_reads_each_value():
    values = (Value((2,), "float32", "input"),) + (Value((2,), "float32", "node"),) * 3
    double = Node(0, "aten.add", "Tensor", {"self": Ref(0), "other": Ref(0), "alpha": 1}, (Ref(1),))
    joined = Node(
        1, "aten.cat", "default", {"tensors": (Ref(1), (Ref(0),)), "dim": 0}, (None, Ref(2), Ref(3))
    )
    graph = Graph((double, joined), values, {}, (0,), (3,))
    assert (double.reads, joined.reads) == ((0,), (1, 0))
    assert (double.makes, joined.makes) == ((1,), (2, 3))
    assert graph.readers == {0: (double, joined), 1: (joined,), 2: (), 3: ()}
    assert graph.maker == {1: double, 2: joined, 3: joined}
    assert (joined.argument_of(0), double.argument_of(0), double.argument_of(3)) == ("tensors", "self", "")
