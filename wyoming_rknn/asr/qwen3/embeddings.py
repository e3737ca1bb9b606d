"""What stands for tokens at the entrance of a language model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wyoming_rknn.asr.qwen3.decoder import Ids, Rows
from wyoming_rknn.errors import EngineError, ModelFileMissing, ModelInvalid


class Embeddings:
    """What stands for tokens at the model's entrance, in a file that is mapped and not read.

    A .npy of float16 or float32 [vocabulary, hidden]. Raises `ModelFileMissing`, `ModelInvalid`.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._table = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise ModelFileMissing(f"{path} is missing; copy or download the model again") from None
        except (OSError, ValueError, EOFError) as error:
            raise ModelInvalid(f"{path} is no table of embeddings ({error}); copy or download it again") from None
        if self._table.ndim != 2 or self._table.dtype not in (np.float16, np.float32):
            raise ModelInvalid(
                f"{path} is {self._table.dtype} {list(self._table.shape)}, not float16 or float32 [vocabulary, hidden]"
            )

    def __len__(self) -> int:
        """Return how many tokens have a row."""
        return len(self._table)

    @property
    def hidden(self) -> int:
        """Return how many numbers stand for a token."""
        return int(self._table.shape[1])

    def rows(self, ids: Sequence[int] | Ids, audio: Rows, audio_id: int) -> Rows:
        """Return float32 [len(ids), hidden], in which the rows of `audio` stand for the tokens `audio_id`, in order.

        Raises `EngineError` if the numbers of both differ.
        """
        wanted = np.asarray(ids, np.int64)
        is_audio = wanted == audio_id
        count = int(is_audio.sum())
        if count != len(audio) or (count and audio.shape[1] != self.hidden):
            shape = f"{len(audio)} rows of {audio.shape[-1]}"
            raise EngineError(f"a prompt has {count} places for rows of {self.hidden} numbers, not for {shape}")
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self._table):
            raise EngineError(f"a prompt has tokens beyond the {len(self._table)} of the model's vocabulary")
        rows = np.empty((wanted.size, self.hidden), np.float32)
        rows[~is_audio] = self._table[wanted[~is_audio]]
        rows[is_audio] = audio
        return rows
