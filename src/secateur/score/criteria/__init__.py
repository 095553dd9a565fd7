"""One module for each criterion; importing it registers the criterion."""
