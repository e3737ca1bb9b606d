"""The C library espeak-ng, which exists once per process."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from wyoming_rknn.errors import EngineError

Sink: TypeAlias = Callable[[bytes], bool]
"""Takes the next samples, int16 little-endian mono; returns whether more are wanted."""

BUFFER_MS = 100
"""How much audio espeak-ng is asked to hand over at a time; it rounds up to 120 ms."""
SLOWEST_WPM, NORMAL_WPM, FASTEST_WPM = 80, 175, 449
"""Words per minute. Below the slowest espeak-ng changes nothing, from 450 on it resamples."""

# Values of speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_RATE_PARAMETER = 1
_POSITION_CHARACTER = 1
_UTF8 = 1
_OK = 0


@dataclass(frozen=True, slots=True)
class Language:
    """A language that espeak-ng speaks."""

    identifier: str
    """espeak-ng's own, for example "gmw/en-US"."""
    tag: str
    """In small letters and unique, for example "en-us"."""
    title: str
    """In English, for example "English (America)"."""


class _Voice(ctypes.Structure):
    """`espeak_VOICE` of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@cache
def library() -> "Library":
    """Return the process's espeak-ng, not loaded yet.

    espeak-ng keeps all state in C globals, so whoever uses it in this process has to share one lock.
    """
    return Library()


class Library:
    """espeak-ng through ctypes. Thread-safe: one synthesis at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._rate_hz = 0
        self._functions: Any = None
        self._languages: tuple[Language, ...] = ()
        self._sink: Sink | None = None
        self._failure: BaseException | None = None
        # ctypes frees a callback that nobody holds, also while C still calls it.
        self._callback = _Callback(self._receive)

    def open(self) -> None:
        """Load and start espeak-ng unless it runs; every call wants one `release`. Raises `EngineError`."""
        with self._lock:
            if self._users == 0:
                self._start()
            self._users += 1

    def release(self) -> None:
        """Stop espeak-ng, once nobody uses it and nothing runs."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._functions.espeak_Terminate()

    @property
    def rate_hz(self) -> int:
        """Return the sample rate."""
        return self._rate_hz

    @property
    def languages(self) -> tuple[Language, ...]:
        """Return every language espeak-ng has data for, sorted by tag."""
        return self._languages

    def synthesize(self, text: str, identifier: str, words_per_minute: int, sink: Sink) -> None:
        """Speak `text`, handing samples to `sink` as they come, until it refuses more.

        `text` must not contain control characters, which are commands to espeak-ng. Raises `EngineError`, and what
        `sink` raises.
        """
        encoded = text.encode("utf-8")
        with self._lock:
            if self._users == 0:
                raise EngineError("espeak-ng was stopped; the request came too late")
            espeak = self._functions
            if espeak.espeak_SetVoiceByName(identifier.encode("utf-8")) != _OK:
                raise EngineError(f"espeak-ng cannot load its voice {identifier!r}; reinstall espeakng-loader")
            espeak.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
            self._sink, self._failure = sink, None
            try:
                status = espeak.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
                failure = self._failure
            finally:
                self._sink = self._failure = None
        if failure is not None:
            raise failure
        if status != _OK:
            raise EngineError(f"espeak-ng failed with status {status}")

    def _start(self) -> None:
        if self._functions is None:
            self._functions = _load()
        data = _data_path()
        rate_hz: int = self._functions.espeak_Initialize(_OUTPUT_SYNCHRONOUS, BUFFER_MS, os.fsencode(data), _DONT_EXIT)
        if rate_hz <= 0:
            # Its buffer for the path is 160 bytes long.
            raise EngineError(f"espeak-ng cannot read its data in {data}; reinstall espeakng-loader in a shorter path")
        self._functions.espeak_SetSynthCallback(self._callback)
        self._rate_hz = rate_hz
        languages = _list_languages(self._functions, data)
        self._languages = tuple(sorted(languages, key=lambda language: language.tag))

    def _receive(self, samples: int | None, count: int, _events: int | None) -> int:
        # Nothing may be raised into C: ctypes would print it and go on.
        try:
            if samples is None or count <= 0 or self._sink is None:
                return 0
            return 0 if self._sink(ctypes.string_at(samples, 2 * count)) else 1
        except BaseException as error:
            self._failure = error
            return 1


def _load() -> Any:  # noqa: ANN401 - a C library has no type
    # The phonemizer's own espeak-ng may have the same soname with other functions. If it came second, the dynamic
    # linker would hand it this one; the other way round both are loaded, because this one is named by its path.
    with contextlib.suppress(ImportError):
        import piper_phonemize  # noqa: F401
    try:
        import espeakng_loader

        functions = ctypes.CDLL(espeakng_loader.get_library_path())
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"espeak-ng cannot be loaded ({error}); install espeakng-loader for this machine") from error
    functions.espeak_Initialize.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    functions.espeak_SetSynthCallback.argtypes = (_Callback,)
    functions.espeak_SetSynthCallback.restype = None
    functions.espeak_SetVoiceByName.argtypes = (ctypes.c_char_p,)
    functions.espeak_SetParameter.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
    functions.espeak_Synth.argtypes = (
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    functions.espeak_ListVoices.argtypes = (ctypes.c_void_p,)
    functions.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    return functions


def _data_path() -> Path:
    import espeakng_loader

    return Path(espeakng_loader.get_data_path())


def _list_languages(functions: Any, data: Path) -> Iterator[Language]:  # noqa: ANN401 - a C library has no type
    voices = functions.espeak_ListVoices(None)
    seen: set[str] = set()
    for index in range(1024):
        if not voices[index]:
            return
        voice = voices[index].contents
        identifier = voice.identifier.decode("utf-8")
        # MBROLA voices need a program and data of their own.
        if identifier.startswith("mb/") or not _has_dictionary(data, identifier):
            continue
        # A list of priority byte and zero-ended tag; the first one is the voice's own.
        tag = ctypes.string_at(voice.languages + 1).decode("utf-8").lower()
        if tag in seen:
            tag = identifier.rpartition("/")[2].lower()
        seen.add(tag)
        yield Language(identifier, tag, voice.name.decode("utf-8").strip())


def _has_dictionary(data: Path, identifier: str) -> bool:
    """Tell whether a voice can speak: the data holds voices whose dictionary is not built."""
    own = identifier.rpartition("/")[2].partition("-")[0]
    if (data / f"{own}_dict").is_file():
        return True
    for line in (data / "lang" / identifier).read_text(encoding="utf-8").splitlines():
        keyword, _, value = line.partition(" ")
        if keyword == "dictionary":
            return (data / f"{value.strip()}_dict").is_file()
    return False
