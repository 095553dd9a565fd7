"""A class is called again for its config alone, or where one asks for uniform widths."""

import torch
from torch import nn

import secateur as sc


class Holder(nn.Module):
    """Built from a record that it holds under another name than `config`; it prints, which nothing undoes."""

    def __init__(self, options):
        super().__init__()
        print("built")  # noqa: T201 - what is printed cannot be taken back
        self.options = options
        self.first, self.last = nn.Linear(4, options["width"]), nn.Linear(options["width"], 2)

    def forward(self, x):
        return self.last(self.first(x).relu())


def test_the_constructor_of_a_model_without_a_config_is_not_called(capsys):
    model = Holder({"width": 8})
    assert capsys.readouterr().out == "built\n"
    assert sc.prune(model, torch.zeros(1, 4), ratio=0.5).verdict.exact
    assert capsys.readouterr().out == ""
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.5, uniform=True)
    assert result.model.options["width"] == 4
    assert "built" in capsys.readouterr().out
