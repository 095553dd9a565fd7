"""The parts of the zoo benchmark: a run of each library, the judge, and the page."""

LIBRARIES = {"secateur": "secateur_run", "torch-pruning": "torch_pruning_run"}
"""The module that runs each library: `run(model, example_inputs)` yields what it finds after each phase."""
