"""Speech for servers whose detector is the real one: a voice that is always there."""

import functools

import numpy as np
import soxr
from computing import on_cpu

from wyoming_rknn.audio import to_bytes
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import espeak
from wyoming_rknn.tts.engine import Prosody, SpeechRequest


@functools.cache
def spoken(text: str, voice: str = "espeak-en-us") -> bytes:
    """Return what espeak-ng makes of a text, without the silence around it; 16 bit, mono, 16 kHz."""
    engine = espeak.create(Settings(), on_cpu())
    (rate_hz,) = (each.rate_hz for each in engine.voices() if each.name == voice)
    scheduler = Scheduler()
    try:
        request = SpeechRequest(text, voice, prosody=Prosody())
        samples = np.concatenate(list(engine.speak(request, scheduler.stream())))
    finally:
        scheduler.close(10)
    samples = soxr.resample(samples, rate_hz, 16000, "HQ")
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return to_bytes(samples[loud[0] : loud[-1]])
