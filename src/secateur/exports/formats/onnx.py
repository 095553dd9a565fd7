"""ONNX, by PyTorch's exporter over `torch.export`; read by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

import torch

from secateur.errors import ExportError, SizeError
from secateur.exports.format import ExportSubject, Format, formats
from secateur.exports.plain import plain_output
from secateur.exports.program import exported_program, reason
from secateur.extras import extra

_MOST_BYTES = 1_800_000_000
"""Of one protobuf, which may have 2 GiB: weights of more lie in a file beside it."""


def write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Write a model as ONNX: inputs are named as the arguments of its forward, outputs as their fields."""
    with extra("onnx", "ONNX files"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    names, notes = plain_output(subject)
    program = exported_program(subject)
    held = sum(tensor.nbytes for tensor in program.state_dict.values())
    try:
        torch.onnx.export(
            program,
            f=str(path),
            dynamo=True,
            external_data=held > _MOST_BYTES,
            output_names=names or None,
            verbose=False,
        )
    except Exception as error:
        kind = SizeError if subject.open else ExportError
        raise kind(f"torch.onnx does not take the model: {reason(error)}") from error
    return [*notes, "weights of more than 1.8 GB lie in a file beside it"] if held > _MOST_BYTES else notes


formats.add(
    "onnx",
    Format(
        what="ONNX, for ONNX Runtime, OpenVINO, TensorRT and others; read back by ONNX Runtime",
        suffix=".onnx",
        write=write,
        reader="onnxruntime",
        extra="onnx",
        fixes_sizes=True,
    ),
)
