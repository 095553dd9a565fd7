"""OpenVINO, on the CPU."""

from secateur.benching.program import Contender, Turn, clock, programs
from secateur.extras import extra


@programs("openvino")
def start(contender: Contender, threads: int) -> Turn:
    """Open the model's ONNX file."""
    with extra("openvino", "timings in OpenVINO"):
        import openvino
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(contender.onnx), "CPU", settings).create_infer_request()
    arrays = contender.arrays
    return clock(lambda: request.infer(arrays))
