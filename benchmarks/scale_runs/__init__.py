"""The parts of the scale benchmark: deep stacks, language models, checkpoints, and the page."""
