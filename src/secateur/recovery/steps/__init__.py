"""One module for each recovery step; importing it registers the step."""
