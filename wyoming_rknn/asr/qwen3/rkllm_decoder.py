"""Generation by librkllmrt: a prompt's rows go to a process that gives tokens back."""

import contextlib
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from wyoming_rknn.asr.qwen3.decoder import Rows
from wyoming_rknn.asr.qwen3.embeddings import Embeddings
from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.cancellation import Cancellable
from wyoming_rknn.runtime.rkllm import RkllmProcess
from wyoming_rknn.runtime.scheduler import LLM, Stream


class RkllmGenerator:
    """Generate with a language model in librkllmrt; a `Generator`.

    The process is the engine's, shared by its utterances, whose runs follow one another as the scheduler says. It reads
    each prompt anew: what it keeps of one is known to be wrong for rows in some versions.
    """

    def __init__(self, process: RkllmProcess, embeddings: Embeddings, audio_id: int, end_ids: frozenset[int]) -> None:
        self._process = process
        self._embeddings = embeddings
        self._audio_id = audio_id
        self._end_ids = end_ids

    def generate(self, ids: Sequence[int], audio: Rows, max_tokens: int, stream: Stream) -> Iterator[int]:
        """Yield tokens as they come. Raises `EngineError`, `Cancelled`."""
        if max_tokens < 1:
            return
        rows = self._embeddings.rows(ids, audio, self._audio_id)
        run = Cancellable()
        heard: queue.SimpleQueue[int | None] = queue.SimpleQueue()

        def work() -> None:
            with contextlib.closing(self._process.generate(rows, max_tokens, run)) as tokens:
                for token in tokens:
                    if token in self._end_ids:
                        break
                    heard.put(token)

        def give_up() -> None:
            run.cancel()
            # Whoever waits must not wait for a device that is busy with others.
            heard.put(None)

        with stream.on_cancel(give_up):
            future: Future[None] = stream.submit(work, at_s=0.0, device=LLM)
            future.add_done_callback(lambda _: heard.put(None))
            try:
                while (token := heard.get()) is not None:
                    if stream.cancelled:
                        raise Cancelled
                    yield token
            finally:
                future.cancel()
                run.cancel()
            if stream.cancelled:
                raise Cancelled
            future.result()

    def close(self) -> None:
        """Nothing is held for an utterance."""
