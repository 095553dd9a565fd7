# The tables are loaded once, by name: collected for doctests as well, an operator would be registered twice.
collect_ignore_glob = ["nets_*.py", "case*.py", "masked.py"]
