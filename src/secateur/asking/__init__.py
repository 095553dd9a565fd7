"""Ask: one request, the same for the functions, the command line, runs in steps and saved plans."""

from secateur.asking.ask import Ask, Filled
from secateur.asking.request import Request
from secateur.asking.words import PlanWords, Words, takes

__all__ = ["Ask", "Filled", "PlanWords", "Request", "Words", "takes"]
