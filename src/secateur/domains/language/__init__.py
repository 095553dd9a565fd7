"""Language: networks that say the next token of a text; perplexity decides."""

from secateur.domains.language.task import Language, PerplexityMeter
from secateur.domains.language.texts import open_text
from secateur.domains.language.tokens import Vocabulary
from secateur.domains.language.windows import Windows

__all__ = ["Language", "PerplexityMeter", "Vocabulary", "Windows", "open_text"]
