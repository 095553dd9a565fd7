"""One module for each program that models are timed in."""
