"""The parts of benchmarks/accuracy.py: networks, methods, the page."""
