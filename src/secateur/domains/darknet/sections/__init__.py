"""One module for each kind of section; importing it registers the kind."""
