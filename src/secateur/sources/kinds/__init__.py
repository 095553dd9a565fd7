"""One module for each source of models; importing it registers the source."""
