"""What is saved around a model is kept from one run to the next, and every change is still put back."""

import torch
from torch import nn

import secateur as sc
from secateur.capture.outside import outside_held, outside_kept

TABLE = {"seen": [0]}
COUNT = 0


class Writing(nn.Module):
    """Writes to a global, to what a global holds, and to its class."""

    runs = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        global COUNT
        COUNT += 1
        Writing.runs += 1
        TABLE["seen"].append(COUNT)
        return self.layer(x).relu() if COUNT == 1 else self.layer(x)


def state():
    return COUNT, Writing.runs, [*TABLE["seen"]]


def test_each_run_of_several_finds_what_the_first_one_found():
    model, before = Writing(), state()
    found = []
    with outside_held():
        for _ in range(3):
            with outside_kept(model) as changed:
                model(torch.zeros(1, 4))
                found.append(state())
            assert len(changed) == 3
            assert state() == before
    assert found == [(1, 1, [0, 1])] * 3


def test_a_run_that_changes_something_after_one_that_did_not_is_put_back():
    model, before = Writing(), state()
    with outside_held():
        with outside_kept(model) as changed:
            pass
        assert changed == []
        with outside_kept(model) as changed:
            model(torch.zeros(1, 4))
        assert len(changed) == 3
        with outside_kept(model) as changed:
            TABLE["more"] = 1
        assert len(changed) == 1
    assert state() == before
    assert "more" not in TABLE


def test_runs_within_runs_are_put_back_once_the_outer_one_ends():
    model, before = Writing(), state()
    with outside_held():
        for _ in range(2):
            with outside_kept(model):
                model(torch.zeros(1, 4))
                with outside_kept(model):
                    model(torch.zeros(1, 4))
                assert state()[0] == 2
            assert state() == before


def test_what_is_coupled_after_a_change_by_the_user_is_what_holds_then():
    global COUNT
    model = Writing()
    assert sc.couple(model, torch.zeros(1, 4)).graph.nodes[-1].op == "aten.relu"
    COUNT = 5
    try:
        assert sc.couple(model, torch.zeros(1, 4)).graph.nodes[-1].op == "aten.linear"
        assert COUNT == 5
    finally:
        COUNT = 0
