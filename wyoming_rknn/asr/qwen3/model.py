"""A loaded Qwen3-ASR model: audio encoder, language model and tokenizer, shared by all utterances."""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.qwen3.audio_encoder import SECOND, SECOND_ROWS, AudioEncoder, Seconds
from wyoming_rknn.asr.qwen3.decoder import Generator, Rows
from wyoming_rknn.asr.qwen3.languages import name_of
from wyoming_rknn.asr.qwen3.prompt import Context, Prompt
from wyoming_rknn.asr.qwen3.tokenizer import Tokenizer
from wyoming_rknn.errors import EngineError, ModelInvalid
from wyoming_rknn.features.log_mel import BINS

_LOGGER = logging.getLogger(__name__)


class Qwen3Model:
    """A model. Thread-safe; immutable."""

    def __init__(
        self,
        name: str,
        encoder: AudioEncoder,
        tokenizer: Tokenizer,
        open_generator: Callable[[], Generator],
        close: Callable[[], None],
        context_tokens: int | None = None,
    ) -> None:
        """Make a model of what was loaded; `close` frees it, at the latest when nobody uses it any more.

        `context_tokens` is how many rows and tokens the language model holds together, `None` for any number.
        """
        self.name = name
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.open_generator = open_generator
        self.context_tokens = context_tokens
        self._finalizer = weakref.finalize(self, _close_apart, close)
        self._finalizer.atexit = False
        self._close = close

    def prompt(self, context: Context, rows: int, language: str | None, kept: Sequence[int]) -> tuple[int, ...]:
        """Return what the language model reads for so many rows of audio in a language, or one to be found out."""
        name = None if language is None else name_of(language)
        return Prompt.of(self.tokenizer, context.text, rows, name, kept).ids

    def context(self, bias: Bias) -> Context:
        """Return the words that are likely, as many as are worth their time."""
        return Context.of(self.tokenizer, bias)

    def warm_up(self) -> Rows:
        """Run the encoder once and return its rows for a second of nothing.

        Raises `ModelInvalid` if it cannot be run or does not fit the language model.
        """
        try:
            rows = self.encoder.encode(np.zeros((SECOND, BINS), np.float32), Seconds())
        except (EngineError, KeyError, IndexError, ValueError) as error:
            # What a graph is that is none of this layout shows in many ways.
            raise ModelInvalid(
                f"the audio encoder of {self.name} cannot be run ({error}); take all files from the same model"
            ) from error
        if rows.shape != (SECOND_ROWS, self.encoder.hidden):
            raise ModelInvalid(
                f"the audio encoder of {self.name} gives {list(rows.shape)} numbers for a second, and the language "
                f"model reads {[SECOND_ROWS, self.encoder.hidden]}; take all files from the same model"
            )
        if not np.isfinite(rows).all():
            raise ModelInvalid(f"the audio encoder of {self.name} computes NaN or infinity; take another build of it")
        return rows

    def close(self) -> None:
        """Free everything."""
        if self._finalizer.detach() is not None:
            self._close()


def _close_apart(close: Callable[[], None]) -> None:
    # Whoever used it last must not wait for a process to end.
    threading.Thread(target=close, name="asr closing", daemon=True).start()
