"""One module for each command; importing it registers the command."""
