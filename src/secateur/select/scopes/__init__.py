"""One module for each way to compare channels of different groups."""
