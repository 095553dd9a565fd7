# The tables are loaded once, by name: collected for doctests as well they would register their operators twice.
collect_ignore_glob = ["nets_*.py", "case*.py", "masked.py"]
