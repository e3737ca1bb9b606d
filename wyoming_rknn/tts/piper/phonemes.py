"""From text to the phoneme ids that a Piper voice was trained on."""

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType

from wyoming_rknn.errors import EngineError, ModelInvalid

# espeak-ng keeps its voice and its translator in C globals, so the guard has to be as wide as the process.
_ESPEAK = threading.Lock()

_BEGIN, _PAD, _END = "^", "_", "$"
_RAW = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_ELLIPSIS = re.compile(r"\s*(?:\.\s?\.|…)[.…]*(?:\s+[.…]+)*(\s*)")
_LIST_NUMBER = re.compile(r"\s*\d+\.\s")
_LEADING_MARK = re.compile(r"\s*([.,;:!?…]+)")
_MARKS = ".,;:!?"
_QUOTES = str.maketrans({"‘": "'", "’": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})
_NO_VOICE = "set eSpeak-ng voice"


def phonemize(text: str, espeak_voice: str, phoneme_type: str = "espeak") -> list[str]:
    """Return the phonemes of one sentence, one NFD code point per item; nothing speakable gives an empty list.

    `phoneme_type` is the one of the voice's config: "espeak" or "text". What stands within `[[ ]]` is taken for
    phonemes as it is. The output for an ordinary sentence is piper-phonemize's own; beyond that espeak-ng's clause cuts
    at abbreviations are joined again and "..." becomes a pause instead of gluing its neighbours. Holds a lock of the
    process and the interpreter for about 3 µs per character (Arabic: about 0.3 s, its vowel marks come from a network).
    Thread-safe. Raises `ModelInvalid` for a phoneme type or an espeak-ng voice that is not available, and
    `EngineError` when espeak-ng fails.
    """
    if phoneme_type not in ("espeak", "text"):
        raise ModelInvalid(
            f"phoneme type {phoneme_type!r} is not supported: voices of this type speak with piper-tts only; "
            "use a voice whose phoneme_type is espeak or text"
        )
    # Odd parts lie within [[ ]].
    parts = _RAW.split(_printable(text))
    phonemes = ""
    for index, part in enumerate(parts):
        if index % 2:
            phonemes += unicodedata.normalize("NFD", part.strip())
            continue
        after_raw, before_raw = index > 0, index < len(parts) - 1
        if after_raw and (mark := _LEADING_MARK.match(part)):
            part = part[mark.end() :]
            phonemes += _leading_mark(mark[1], last=not part.strip() and not before_raw) if phonemes else ""
        if part[:1].isspace():
            phonemes = _spaced(phonemes)
        spoken = _codepoints(part) if phoneme_type == "text" else _espeak(part, espeak_voice)
        phonemes += spoken.removesuffix(".") if before_raw else spoken
        if part[-1:].isspace() and before_raw:
            phonemes = _spaced(phonemes)
    return list(phonemes) if any(_is_sound(phoneme) for phoneme in phonemes) else []


def to_ids(phonemes: Sequence[str], phoneme_id_map: Mapping[str, Sequence[int]]) -> tuple[list[int], Counter[str]]:
    """Return a voice's input ids, and how often each phoneme occurs that it does not know (and that is left out).

    The ids are those of `^ _`, each phoneme followed by `_`, then `$`, as piper's training laid them out. Raises
    `ModelInvalid` if the map lacks one of these three marks.
    """
    try:
        begin, pad, end = (phoneme_id_map[mark] for mark in (_BEGIN, _PAD, _END))
    except KeyError as error:
        raise ModelInvalid(f"the voice's phoneme_id_map has no {error}; take the config that belongs to it") from None
    ids = [*begin, *pad]
    missing: Counter[str] = Counter()
    for phoneme in phonemes:
        known = phoneme_id_map.get(phoneme)
        if known is None:
            missing[phoneme] += 1
            continue
        ids.extend(known)
        ids.extend(pad)
    ids.extend(end)
    return ids, missing


def _espeak(text: str, voice: str) -> str:
    cleaned = _ELLIPSIS.sub(_pause, text.translate(_QUOTES)).strip()
    # espeak-ng reads a lone mark by its name.
    if not any(unicodedata.category(char)[0] in "LNS" for char in cleaned):
        return ""
    with _ESPEAK:
        module = _piper_phonemize()
        try:
            if voice == "ar":
                cleaned = module.tashkeel_run(cleaned)
            clauses: list[list[str]] = module.phonemize_espeak(cleaned, voice)
        except RuntimeError as error:
            if _NO_VOICE in str(error):
                raise ModelInvalid(
                    f"espeak-ng has no voice {voice!r}; set espeak.voice in the voice's .onnx.json to one that it has"
                ) from error
            raise EngineError(f"espeak-ng failed: {error}") from error
    sentences = [sentence for clause in clauses if (sentence := "".join(clause)).strip()]
    if len(sentences) > 1 and _LIST_NUMBER.match(cleaned):
        sentences[0] = sentences[0].removesuffix(".") + ","
    # A full stop within a sentence is an abbreviation's, and the voice would fall silent there.
    inner = [sentence.removesuffix(".").rstrip() + " " for sentence in sentences[:-1]]
    return "".join([*inner, *sentences[-1:]])


def _codepoints(text: str) -> str:
    # Folded because piper's maps of letters hold the small ones only.
    return unicodedata.normalize("NFD", " ".join(text.casefold().split()))


def _piper_phonemize() -> ModuleType:
    # Brings a shared library of 15 MB along, which other engines do without.
    import piper_phonemize

    module: ModuleType = piper_phonemize
    return module


def _printable(text: str) -> str:
    # A NUL would end the C string early and a lone surrogate has no UTF-8.
    return text.replace("\0", " ").encode("utf-8", "ignore").decode("utf-8")


def _pause(ellipsis: re.Match[str]) -> str:
    before, after = ellipsis.string[: ellipsis.start()], ellipsis.string[ellipsis.end() :]
    if not before.strip():
        return ""
    if after[:1] in tuple(_MARKS):
        return ""
    if not after.strip("\"')]} "):
        return "." if before[-1] not in _MARKS else ""
    gap = ellipsis[1] or ("" if after[0] in "\"')]}" else " ")
    return gap if before[-1] in _MARKS else "," + gap


def _leading_mark(marks: str, *, last: bool) -> str:
    mark = marks[0]
    if marks[:2] == ".." or mark == "…":
        mark = "." if last else ","
    return mark if last else mark + " "


def _spaced(phonemes: str) -> str:
    return phonemes if not phonemes or phonemes[-1].isspace() else phonemes + " "


def _is_sound(phoneme: str) -> bool:
    return unicodedata.category(phoneme)[0] in "LN"
