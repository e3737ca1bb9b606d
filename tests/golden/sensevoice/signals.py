"""The signals of the SenseVoice goldens, by formula: no audio is stored, and every machine makes the same samples.

A signal is a row of steady sounds, as speech is a row of phones. Each repeats every 10 ms and begins where a stacked
feature does, so features say clearly which sound it is: what greedy decoding makes of them does not hang on a last
bit. Sounds are rounded to 16 bits, which swallows what libraries differ by; `expected.json` has a checksum of each
signal all the same.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
PERIOD = 160
STACKED = 960
"""Samples from one stacked feature to the next."""
SOUNDS = 40
"""The first one is digital silence, where features sit on their floor."""
SHORTEST, LONGEST = 2, 6
"""Of one sound, in stacked features."""


def signal(samples: int, seed: int) -> NDArray[np.int16]:
    """Return int16 [samples]."""
    index = np.arange(samples)
    return sounds()[kinds(-(-samples // STACKED), seed)[index // STACKED], index % PERIOD]


def kinds(count: int, seed: int) -> NDArray[np.int64]:
    """Return which sound is heard in each stacked feature, int64 [count]."""
    row: list[int] = []
    for length, sound in zip(scrambled(count, 2 * seed), scrambled(count, 2 * seed + 1), strict=True):
        row += [int(sound) % SOUNDS] * (SHORTEST + int(length) % (LONGEST - SHORTEST + 1))
    return np.array(row[:count], np.int64)


def sounds() -> NDArray[np.int16]:
    """Return one period of each sound, int16 [SOUNDS, PERIOD]: harmonics of 100 Hz below two formants, or flat."""
    harmonic = np.arange(1, PERIOD // 2)
    cycle = np.arange(PERIOD) / PERIOD
    rows = [np.zeros(PERIOD)]
    for number in range(1, SOUNDS):
        hz = 100.0 * harmonic
        first_hz, second_hz = 250.0 + 90.0 * (number * 7 % 11), 1_100.0 + 330.0 * (number * 5 % 17)
        height = np.exp(-(((hz - first_hz) / 150.0) ** 2)) + 0.6 * np.exp(-(((hz - second_hz) / 260.0) ** 2))
        height = height + 0.004 if number % 5 else np.exp(-(((hz - 3_000.0 - 45.0 * number) / 1_500.0) ** 2))
        phase = 2.0 * np.pi * scrambled(len(harmonic), number) / 2.0**32
        wave = (height[:, None] * np.sin(2.0 * np.pi * harmonic[:, None] * cycle + phase[:, None])).sum(axis=0)
        rows.append(wave / np.abs(wave).max() * 2_000.0 * 2.0 ** (number % 4))
    return np.rint(np.stack(rows)).astype(np.int16)


def scrambled(count: int, seed: int) -> NDArray[np.uint64]:
    """Return uint64 [count] below 2^32 that look random: the finaliser of MurmurHash3 over a counter."""
    low = np.uint64(0xFFFFFFFF)
    state = (np.arange(count, dtype=np.uint64) + np.uint64(seed * 1_000_003 + 1)) & low
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = ((state ^ (state >> np.uint64(shift))) * np.uint64(factor)) & low
    return state ^ (state >> np.uint64(16))


def as_float(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return float32 [n] within ±1."""
    return pcm.astype(np.float32) / np.float32(32768.0)


def checksum(pcm: NDArray[np.int16]) -> str:
    """Return the SHA-256 of little-endian samples."""
    return hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()
