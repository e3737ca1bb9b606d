"""The last test of the suite: what is spoken over the wire is understood."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pocketsphinx
from protocol.harness.client import connect
from protocol.harness.servers import ServerProcess

TEXT = "turn on the living room lights"
RECOGNISER_HZ = 16000


def _resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Band-limited conversion of a whole recording by its spectrum, int16 in and out."""
    count = round(samples.size * RECOGNISER_HZ / rate_hz)
    spectrum = np.fft.rfft(samples.astype(float))[: count // 2 + 1]
    converted = np.fft.irfft(spectrum, count) * count / samples.size
    return np.clip(np.round(converted), -32768, 32767).astype(np.int16)


def _recognise(samples: np.ndarray) -> str:
    decoder = pocketsphinx.Decoder(samprate=RECOGNISER_HZ, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found is not None else ""


async def test_a_spoken_command_is_understood(launch: Callable[..., ServerProcess], voices: Path, split_cache: Path):
    server = launch("--data-dir", str(voices), "--cache-dir", str(split_cache))
    async with connect(server.uri) as client:
        speech = await client.stream([word + " " for word in TEXT.split()], "sano-hfc")
    quiet = np.zeros(RECOGNISER_HZ // 4, np.int16)
    assert _recognise(np.concatenate([quiet, _resample(speech.samples, speech.rate_hz), quiet])) == TEXT
    server.stop()
    server.check_log()
