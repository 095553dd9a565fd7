"""One module for each schedule of sparsity over training."""
