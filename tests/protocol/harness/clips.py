"""Recordings of people, and what they say."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from protocol.harness.transcription import RATE_HZ, Layout

UNKNOWN_TO_THE_TEST_MODEL = {"en_jfk.flac", "en_beckett.flac", "en_librispeech_1995_1837_0001.wav"}


@dataclass(frozen=True)
class Clip:
    """A recording whose text is known."""

    path: Path
    text: str

    @property
    def samples(self) -> np.ndarray:
        """Return int16 [n], mono, 16 kHz."""
        samples, rate_hz = soundfile.read(self.path, dtype="int16")
        assert rate_hz == RATE_HZ
        assert samples.ndim == 1
        return samples

    @property
    def pcm(self) -> bytes:
        return self.samples.astype("<i2").tobytes()

    def encoded(self, layout: Layout) -> bytes:
        """Return the recording in another format, the same in every channel."""
        samples = self.samples / 32768
        if layout.rate != RATE_HZ:
            samples = soxr.resample(samples, RATE_HZ, layout.rate, "VHQ")
        peak = 2 ** (8 * layout.width - 1)
        whole = np.clip(np.round(samples * peak), -peak, peak - 1).astype("<i8")
        if layout.width == 1:
            whole += 128
        channels = np.repeat(whole[:, None], layout.channels, axis=1)
        return np.ascontiguousarray(channels).view(np.uint8).reshape(*channels.shape, 8)[..., : layout.width].tobytes()


def known_clips(folder: Path) -> list[Clip]:
    """Return the recordings that the tests' model was trained on, shortest first."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: row["seconds"])
    return [
        Clip(folder / row["file"], row["text"])
        for row in rows
        if row["text"] is not None and row["file"] not in UNKNOWN_TO_THE_TEST_MODEL
    ]


def plain(text: str) -> str:
    """Drop case and punctuation."""
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())
