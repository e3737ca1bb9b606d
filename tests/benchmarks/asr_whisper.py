"""Serve a SenseVoice model through wyoming-faster-whisper's own connection handler; run by asr.py.

    python asr_whisper.py PORT FOLDER THREADS

Its sherpa path loads transducers only and its FunASR path needs torch and the published checkpoint, so neither reads
the model of the comparison. Its server, handler and loader are used as they are; only the transcriber is put in: the
same steps as in its sherpa path, around a SenseVoice recogniser of sherpa-onnx.
"""

import asyncio
import sys
import wave
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx
from wyoming.server import AsyncServer
from wyoming_faster_whisper.__main__ import build_info
from wyoming_faster_whisper.const import SttLibrary, Transcriber
from wyoming_faster_whisper.dispatch_handler import DispatchEventHandler
from wyoming_faster_whisper.models import ModelLoader


class SenseVoice(Transcriber):
    """Decodes a file once it is whole."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.recognizer = sherpa_onnx.OfflineRecognizer.from_sense_voice(
            str(folder / "model.onnx"), str(folder / "tokens.txt"), num_threads=threads, use_itn=True
        )

    def transcribe(self, wav_path: Any, language: Any, beam_size: int = 5, initial_prompt: Any = None) -> str:
        with wave.open(str(wav_path), "rb") as file:
            pcm = file.readframes(file.getnframes())
        stream = self.recognizer.create_stream()
        stream.accept_waveform(16_000, np.frombuffer(pcm, np.int16).astype(np.float32) / 32768)
        self.recognizer.decode_stream(stream)
        text: str = stream.result.text
        return text


class Loader(ModelLoader):
    """Loads the one transcriber there is."""

    def __init__(self, transcriber: Transcriber, threads: int) -> None:
        super().__init__(
            preferred_stt_library=SttLibrary.SHERPA,
            preferred_language=None,
            download_dir=".",
            local_files_only=True,
            model="sensevoice",
            compute_type="default",
            device="cpu",
            beam_size=1,
            cpu_threads=threads,
            initial_prompt=None,
            vad_parameters=None,
        )
        self.transcriber = transcriber

    def _build_transcriber(self, *_: object, **__: object) -> Transcriber:
        return self.transcriber


async def main() -> None:
    port, folder, threads = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    loader = Loader(SenseVoice(folder, threads), threads)
    server = AsyncServer.from_uri(f"tcp://127.0.0.1:{port}")
    await server.run(partial(DispatchEventHandler, build_info("sensevoice"), loader, None))


if __name__ == "__main__":
    asyncio.run(main())
