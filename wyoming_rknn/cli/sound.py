"""Sound files of any kind, as engines hear them."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from wyoming_rknn.asr.engine import RATE_HZ
from wyoming_rknn.asr.feed import AudioFeed
from wyoming_rknn.audio import PcmFormat, Resampler, Waveform
from wyoming_rknn.errors import InvalidRequest, SoundUnreadable

STDIN = "-"
BLOCK_S = 0.5
"""Length of what is read at a time."""
_CONVERT = "convert it to WAV, FLAC, Ogg or MP3, for instance with ffmpeg"


def read(name: str) -> Iterator[Waveform]:
    """Yield a sound file's samples, float32 mono at `RATE_HZ` within ±1, half a second at a time; `-` is stdin.

    They are the samples that the server makes of the same sound when it comes as PCM. Raises `SoundUnreadable` when
    it turns out that the file cannot be read.
    """
    title = "stdin" if name == STDIN else name
    try:
        with _open(name) as file, _Sound(_source(file), closefd=False) as sound:
            yield from _resampled(_mono(sound), PcmFormat(sound.samplerate, 2, 1).rate_hz)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SoundUnreadable(f"cannot read {title}: {reason}; name a sound file, or - for stdin") from None
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise SoundUnreadable(f"cannot read {title}: {reason}; {_CONVERT}") from None
    except InvalidRequest as error:
        raise SoundUnreadable(f"cannot read {title}: {error}; {_CONVERT}") from None


class _Sound(soundfile.SoundFile):  # type: ignore[misc] # ships no types
    """A file that is read from its beginning to its end."""

    def seekable(self) -> bool:
        """Return false: the library would look for its place around each read, which MP3 does not survive unharmed."""
        return False


class SoundFeed(AudioFeed):
    """A sound file for a listener: it has ended before anybody listens, and is read as it is taken."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._blocks = read(name)
        self.end()

    def take(self, at_least: int) -> Waveform | None:
        """Return the next samples, `at_least` so many but for the last ones, or `None` when there are no more.

        Raises `SoundUnreadable` if the file cannot be read, `Cancelled`.
        """
        self.check()
        taken: list[Waveform] = []
        while sum(block.size for block in taken) < at_least and (block := next(self._blocks, None)) is not None:
            taken.append(block)
        return np.concatenate(taken) if taken else None


def _open(name: str) -> BinaryIO:
    # Descriptor 0 instead of sys.stdin, which may have read ahead.
    return open(0, "rb", closefd=False) if name == STDIN else Path(name).open("rb")


def _source(file: BinaryIO) -> int | BinaryIO:
    """Return what can be read to and fro: the file itself, or all that comes out of a pipe. Raises `OSError`."""
    status = os.fstat(file.fileno())
    content = None if stat.S_ISREG(status.st_mode) else file.read()
    if not (status.st_size if content is None else content):
        raise OSError(errno.ENODATA, "it is empty")
    return file.fileno() if content is None else io.BytesIO(content)


def _mono(sound: _Sound) -> Iterator[Waveform]:
    """Yield the mean of the channels. A file of floats may hold what is no sample: that becomes one."""
    frames = round(BLOCK_S * sound.samplerate)
    while (block := sound.read(frames, dtype="float32", always_2d=True)).size:
        mono: Waveform = block[:, 0].copy()
        for channel in range(1, sound.channels):
            mono += block[:, channel]
        mono /= np.float32(sound.channels)
        yield np.clip(np.nan_to_num(mono), np.float32(-1), np.float32(1))


def _resampled(blocks: Iterator[Waveform], rate_hz: int) -> Iterator[Waveform]:
    if rate_hz == RATE_HZ:
        yield from blocks
        return
    resampler = Resampler(rate_hz, RATE_HZ)
    for block in blocks:
        yield resampler.accept(block)
    yield resampler.end()
