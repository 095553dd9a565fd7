"""One module for each budget."""
