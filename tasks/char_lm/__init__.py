"""Character language model: a small GPT on one text, scored by loss, perplexity and bits."""

from tasks.char_lm.data import CharData
from tasks.char_lm.module import CharLM

__all__ = ["CharData", "CharLM"]
