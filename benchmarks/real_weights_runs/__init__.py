"""The parts of `benchmarks/real_weights.py`: what it fetches, two trained models, the measures, the page."""
