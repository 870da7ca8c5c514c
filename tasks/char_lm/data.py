"""One text in characters."""

from functools import cached_property

import torch
from torch import Tensor

from tasks.text.data import TextData


class CharData(TextData):
    """A text in characters, split 90 % to 10 %.

    The first part is for training, the last for validation and testing.

    Args:
        corpus: `tinyshakespeare`, `pydoc`, or the path of a UTF-8 text file.
        data_dir: a folder that has Tiny Shakespeare as `tinyshakespeare/input.txt`.
        fallback: corpus to take, with a warning, when Tiny Shakespeare cannot be had; null makes
            that an error.
        batch_size: windows per step and process.
        block_size: characters per window.
        seed: of the training windows.

    Raises:
        UserError: for a corpus that is missing, empty, binary or too short.
    """

    unit = "characters"

    def __init__(
        self,
        corpus: str = "tinyshakespeare",
        data_dir: str | None = None,
        fallback: str | None = "pydoc",
        batch_size: int = 32,
        block_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(corpus, data_dir, fallback, batch_size, block_size, seed)

    @cached_property
    def vocabulary(self) -> str:
        """Every character of the corpus, sorted; a character's place is its id."""
        return "".join(sorted(set(self.corpus.text)))

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Turn each character into its place in the vocabulary."""
        place = {character: i for i, character in enumerate(self.vocabulary)}
        ids = torch.tensor([place[character] for character in text], dtype=torch.int32)
        return ids, torch.ones_like(ids)

    def facts(self) -> dict[str, object]:
        """Return the corpus and its hash, sizes, the windows and the size of the vocabulary."""
        return {**super().facts(), "vocabulary": len(self.vocabulary)}
