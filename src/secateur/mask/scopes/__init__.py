"""One module for each way to spread an amount over tensors."""
