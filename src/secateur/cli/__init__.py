"""The command line: one verb a command, errors without a stack trace.

Exit 0: done. 1: the check or the run failed. 2: the request made no sense.
"""

from secateur.cli.app import main

__all__ = ["main"]
