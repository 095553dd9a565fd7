"""ONNX Runtime, on the CPU."""

from secateur.benching.program import Contender, Turn, clock, programs
from secateur.errors import RequestError
from secateur.extras import extra


@programs("onnxruntime")
def start(contender: Contender, threads: int) -> Turn:
    """Open the model's ONNX file."""
    with extra("onnx", "timings in ONNX Runtime"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(contender.onnx), options, providers=["CPUExecutionProvider"])
    names, arrays = [one.name for one in session.get_inputs()], contender.arrays
    if len(names) != len(arrays):
        raise RequestError(f"the file takes {len(names)} inputs, the example has {len(arrays)}")
    inputs = dict(zip(names, arrays, strict=True))
    return clock(lambda: session.run(None, inputs))
