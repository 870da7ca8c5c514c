"""Causal language modelling: any pretrained decoder, fine-tuned on one text."""

from tasks.causal_lm.data import TokenData
from tasks.causal_lm.module import CausalLM

__all__ = ["CausalLM", "TokenData"]
