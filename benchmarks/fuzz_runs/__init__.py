"""What `benchmarks/fuzz.py` runs: parsers with valid samples, mutators, a child process, the page."""
