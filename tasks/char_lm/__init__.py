"""Character language model: a small GPT on one text, scored by validation loss, perplexity and bits per character."""

from tasks.char_lm.data import CharData
from tasks.char_lm.module import CharLM

__all__ = ["CharData", "CharLM"]
