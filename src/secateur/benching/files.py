"""ONNX files: what inputs one takes."""

from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import RequestError
from secateur.extras import extra

_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
}


def inputs_of_file(path: Path, batch: int) -> tuple[Tensor, ...]:
    """Zeros of the sizes that an ONNX file says.

    Args:
        path: The file.
        batch: The first size of an input, where the file leaves it open.

    Raises:
        RequestError: There is no such file, ONNX Runtime cannot read it, or it leaves other sizes open.
        MissingExtraError: ONNX Runtime is not installed.
    """
    with extra("onnx", "ONNX files"):
        import onnxruntime
    if not path.is_file():
        raise RequestError(f"there is no file {path}", do="name an ONNX file, or a model")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        what = f"{path} cannot be read by ONNX Runtime"
        raise RequestError(what, [str(error).partition("\n")[0]], "export it again") from error
    found = []
    for one in session.get_inputs():
        sizes = [
            batch if at == 0 and not isinstance(size, int) else size for at, size in enumerate(one.shape)
        ]
        if one.type not in _TYPES or not all(isinstance(size, int) and size for size in sizes):
            raise RequestError(
                f"{path} does not say what its input {one.name} is",
                [f"it says {one.type} of {one.shape}"],
                "pass --input, or name a model of PyTorch beside it, whose inputs it is given then",
            )
        found.append(torch.zeros(*sizes, dtype=_TYPES[one.type]))
    return tuple(found)
