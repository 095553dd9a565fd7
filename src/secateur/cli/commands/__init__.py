"""A module is a command, with a function of its name; a folder is a group of commands."""
