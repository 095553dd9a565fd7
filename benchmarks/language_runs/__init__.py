"""Parts of `benchmarks/language_model.py`."""
