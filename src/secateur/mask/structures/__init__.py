"""One module for each structure of masks."""
