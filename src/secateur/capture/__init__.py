"""Capture: a model and example inputs become a `Graph`."""

from secateur.capture.follower import Step, follow, observe
from secateur.capture.inputs import as_call, cast_inputs, output_tensors
from secateur.capture.recording import capture, record
from secateur.capture.tracer import Site, Trace, trace

__all__ = [
    "Site",
    "Step",
    "Trace",
    "as_call",
    "capture",
    "cast_inputs",
    "follow",
    "observe",
    "output_tensors",
    "record",
    "trace",
]
