"""One text in a pretrained network's tokens."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tasks.hub import check_length, load_tokenizer
from tasks.text.data import TextData
from zoo.errors import UserError, option
from zoo.training.identity import digest


class TokenData(TextData):
    """A text in tokens, split 90 % to 10 % of its characters.

    The first part is for training, the last for validation and testing.

    Args:
        corpus: `tinyshakespeare`, `pydoc`, or the path of a UTF-8 text file.
        backbone: whose tokenizer; comes from the model.
        data_dir: a folder that has Tiny Shakespeare as `tinyshakespeare/input.txt`.
        fallback: corpus to take, with a warning, when Tiny Shakespeare cannot be had; null makes
            that an error.
        batch_size: windows per step and process.
        block_size: tokens per window; at most as many as the network has positions.
        seed: of the training windows.

    Raises:
        UserError: for a corpus that is missing, empty, binary or too short, or a block that is too
            long.
    """

    unit = "tokens"

    def __init__(
        self,
        corpus: str = "tinyshakespeare",
        backbone: str = "gpt2",
        data_dir: str | None = None,
        fallback: str | None = "pydoc",
        batch_size: int = 8,
        block_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(corpus, data_dir, fallback, batch_size, block_size, seed)
        self.backbone = backbone

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer.

        Raises:
            UserError: if the network has fewer positions than `block_size`, or the tokenizer cannot
                say where its tokens stand.
        """
        check_length(self.backbone, self.block_size, "data.block_size")
        tokenizer = load_tokenizer(self.backbone)
        if not tokenizer.is_fast:
            raise UserError(
                f"the tokenizer of {self.backbone!r} tells no offsets; give another "
                f"{option('model.backbone')}"
            )
        return tokenizer

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Turn a text into tokens, each of which stands for the characters up to the next one."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = torch.tensor(
            [0, *(start for start, _ in encoded["offset_mapping"][1:]), len(text)]
        )
        return torch.tensor(encoded["input_ids"], dtype=torch.int32), starts.diff()

    def identity(self) -> dict[str, object]:
        """Return the identity of the text, and the hash of its tokens.

        Of one text, another tokenizer makes others.
        """
        return {**super().identity(), "tokens_sha256": self.tokens_sha256}

    @cached_property
    def tokens_sha256(self) -> str:
        """The hash of the ids of both parts, int32."""
        return digest(*(ids for ids, _ in self.encoded))

    def facts(self) -> dict[str, object]:
        """Return the corpus and its hash, sizes, the windows and the tokenizer."""
        return {**super().facts(), "backbone": self.backbone, "vocabulary": len(self.tokenizer)}
