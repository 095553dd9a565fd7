"""What is true of one kind of model or task; the core never imports from here."""
