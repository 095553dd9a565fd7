"""Opens an ONNX file with ONNX Runtime on the CPU. Torch is not imported."""

import os
from typing import Any


def load(path: str) -> tuple[str, Any]:
    """Open the file; what runs it takes arrays in the order of its inputs, and returns arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*arrays: Any) -> Any:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return f"onnxruntime {onnxruntime.__version__}", run
