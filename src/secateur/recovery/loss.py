"""The label-free loss: how far a cut model's outputs are from those of the dense model.

error = |cut - dense| / |dense|, both norms over all outputs of a batch
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.batches import naming_batch
from secateur.capture.inputs import as_call, cast_type, map_inputs, output_tensors
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.shadow import shadow
from secateur.capture.switches import recording_context
from secateur.errors import RequestError


def outputs_of(model: nn.Module, batch: Any, number: int = 0, state: Collection[str] = ()) -> list[Tensor]:
    """Run a copy of a model in eval mode.

    Args:
        model: Any module; not changed.
        batch: Its inputs; not changed.
        number: Which batch of the data it is, for messages.
        state: Names of what it returns for its next call only.

    Returns:
        The tensors of its output, state left out.

    Raises:
        CaptureError: The model does not run on the batch.
    """
    args, kwargs = as_call(map_inputs(batch, torch.clone))
    with naming_batch(number), outside_kept(model), recording_context(), OwnNumbers():
        return output_tensors(shadow(model).eval()(*args, **kwargs), state)


def output_error(dense: Sequence[Tensor], cut: Sequence[Tensor]) -> float:
    """The relative error of outputs.

    Args:
        dense: The outputs of the dense model.
        cut: The outputs of the cut model. One of another shape (channels of the inside that are put out, a
            number of boxes) has nothing to be compared with and is passed over.

    Returns:
        |cut - dense| / |dense|; infinite where something is compared with nothing but zeros, NaN where no
        output can be compared.

    Example:
        >>> output_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
        0.1
    """
    wrong, size, compared = 0.0, 0.0, False
    for one, two in zip(dense, cut, strict=False):
        if one.shape == two.shape and (one.is_floating_point() or one.is_complex()):
            compared = True
            first, second = (tensor.to(cast_type(tensor, torch.float64)) for tensor in (one, two))
            wrong += float((second - first).abs().square().sum())
            size += float(first.abs().square().sum())
    if not compared:
        return float("nan")
    if wrong == 0:
        return 0.0
    return (wrong / size) ** 0.5 if size > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Batches that candidates are judged on, with what the dense model puts out for them.

    Attributes:
        batches: Inputs of the model's form.
        numbers: The place of each in the data, for messages.
        words: Which batches they are.
        dense: The dense model's outputs, those of all batches in a row.
        state: Names of what the model returns for its next call only.

    Example:
        >>> dense = nn.Linear(3, 2)
        >>> held = HeldOut.of(dense, [torch.ones(4, 3), torch.ones(4, 3)])
        >>> held.words, len(held.batches), held.error(dense)
        ('1 batch that the choice did not see', 1, 0.0)
    """

    batches: Sequence[Any] = field(repr=False)
    numbers: Sequence[int]
    words: str
    dense: Sequence[Tensor] = field(repr=False)
    state: Collection[str] = ()

    @staticmethod
    def split(count: int) -> int:
        """How many of so many batches are chosen by; the others, a quarter, judge. One does both."""
        return count - max(1, count // 4) if count > 1 else 1

    @classmethod
    def of(cls, dense: nn.Module, batches: Sequence[Any], state: Collection[str] = ()) -> "HeldOut":
        """The last quarter of some batches, at least one; of a single batch that one.

        Args:
            dense: The dense model; not changed.
            batches: All batches, inputs of its form.
            state: As for `outputs_of`.

        Raises:
            RequestError: The model puts out nothing that could be compared.
        """
        count = len(batches)
        numbers = range(cls.split(count) if count > 1 else 0, count)
        plural = "es" if len(numbers) > 1 else ""
        words = (
            "the only batch" if count == 1 else f"{len(numbers)} batch{plural} that the choice did not see"
        )
        return cls.on(dense, [batches[number] for number in numbers], numbers, words, state)

    @classmethod
    def on(
        cls,
        dense: nn.Module,
        batches: Sequence[Any],
        numbers: Sequence[int],
        words: str,
        state: Collection[str] = (),
    ) -> "HeldOut":
        """These very batches.

        Args:
            dense: The dense model; not changed.
            batches: Inputs of its form.
            numbers: Their places in the data.
            words: Which batches they are.
            state: As for `outputs_of`.

        Raises:
            RequestError: The model puts out nothing that could be compared.
        """
        outputs = [
            tensor
            for number, batch in zip(numbers, batches, strict=True)
            for tensor in outputs_of(dense, batch, number, state)
        ]
        if output_error(outputs, outputs) != 0:
            raise RequestError(
                "the model puts out no finite numbers that widths could be judged by",
                do="leave search and depth out",
            )
        return cls(batches, numbers, words, outputs, state)

    def error(self, cut: nn.Module) -> float:
        """The output error of a cut model, |cut - dense| / |dense| over all batches; infinite for NaN."""
        outputs = [
            tensor
            for number, batch in zip(self.numbers, self.batches, strict=True)
            for tensor in outputs_of(cut, batch, number, self.state)
        ]
        error = output_error(self.dense, outputs)
        return error if error == error else float("inf")  # NaN is no number that compares
