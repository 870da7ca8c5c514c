"""Adapters in the format of Hugging Face's peft, which is not needed: read and written.

A folder holds `adapter_config.json` and `adapter_model.safetensors` or `adapter_model.bin`. What
the LoRA authors' own loralib saves is read as well.
"""

from zoo.runs.peft.adapter import (
    CONFIG,
    PREFIX,
    TENSORS,
    Adapter,
    Factors,
    Mapped,
    OfStack,
    Update,
)
from zoo.runs.peft.lora import lora_factors, own_factors
from zoo.runs.peft.reading import find, read, sizes
from zoo.runs.peft.writing import write

__all__ = [
    "CONFIG",
    "PREFIX",
    "TENSORS",
    "Adapter",
    "Factors",
    "Mapped",
    "OfStack",
    "Update",
    "find",
    "lora_factors",
    "own_factors",
    "read",
    "sizes",
    "write",
]
