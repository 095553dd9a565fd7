"""One module for each criterion of masks."""
