"""Piper's list of voices, `voices.json` of rhasspy/piper-voices, and the fifth of it that the catalogue holds.

All names and paths follow from a voice's key: `en_US-amy-low` is `en/en_US/amy/low/en_US-amy-low.onnx` with its config
and `MODEL_CARD`. So the catalogue has per voice

    "en_US-amy-low": [bytes, md5, bytes, md5, bytes, md5, {"aliases": […], "speakers": […]}]

for graph, config and card; the last item stands only where there is something in it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from wyoming_rknn.errors import ModelInvalid

REPO, REVISION = "rhasspy/piper-voices", "main"
LICENCE = "see MODEL_CARD"
QUALITIES = ("x_low", "low", "medium", "high")
"""From quick to good."""
SUFFIXES = (".onnx", ".onnx.json")
CARD = "MODEL_CARD"

_MD5 = re.compile(r"[0-9a-f]{32}")

_Json: TypeAlias = Mapping[str, Any]


def parts(key: str) -> tuple[str, str, str]:
    """Split a voice's key into language, name and quality. Raises `ValueError` if it has no such form."""
    code, _, rest = key.partition("-")
    name, _, quality = rest.rpartition("-")
    if not code or not name or quality not in QUALITIES or "/" in key:
        raise ValueError(key)
    return code, name, quality


def paths(key: str) -> tuple[str, str, str]:
    """Return where a voice's graph, config and card are in the repository. Raises `ValueError` as `parts`."""
    code, name, quality = parts(key)
    folder = f"{code.split('_')[0]}/{code}/{name}/{quality}"
    return f"{folder}/{key}{SUFFIXES[0]}", f"{folder}/{key}{SUFFIXES[1]}", f"{folder}/{CARD}"


def compact(voices: object, origin: str = "") -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the catalogue's Piper section, and the keys of voices that are not of the usual form and were left out.

    `voices` is the content of `voices.json`, `origin` says where it is from. Raises `ModelInvalid` if it is no such
    list.
    """
    known = voices if isinstance(voices, Mapping) else {}
    rows: dict[str, list[Any]] = {}
    languages: dict[str, str] = {}
    left_out: list[str] = []
    for key in sorted(known):
        try:
            row, language = _row(key, known[key]), _language(known[key].get("language", {}))
            check_row(key, row)
            if not is_text(language):
                raise ValueError(language)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            left_out.append(key)
        else:
            rows[key], languages[parts(key)[0]] = row, language
    if not rows:
        raise ModelInvalid("this is no list of Piper voices; take voices.json of rhasspy/piper-voices")
    section = {
        "origin": origin,
        "repo": REPO,
        "revision": REVISION,
        "licence": LICENCE,
        "languages": {code: name for code, name in sorted(languages.items()) if name},
        "voices": rows,
    }
    return section, tuple(left_out)


def check_row(key: str, row: object) -> None:
    """Raise `AttributeError`, `TypeError` or `ValueError` if a voice's row is not as the catalogue has it."""
    parts(key)
    if not isinstance(row, list) or len(row) not in (6, 7):
        raise ValueError(row)
    more = row[6] if len(row) == 7 else {}
    texts = (key, *more.get("speakers", ()), *more.get("aliases", ()))
    sizes, hashes = row[0:6:2], row[1:6:2]
    if not (all(map(is_text, texts)) and all(map(_is_size, sizes)) and all(map(_MD5.fullmatch, hashes))):
        raise ValueError(row)


def is_text(value: object) -> bool:
    """Tell whether something is a text of one line."""
    return isinstance(value, str) and value.isprintable()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def dumps(piper: _Json, models: Sequence[_Json] = ()) -> str:
    """Return a catalogue as text with one line for each voice and model, so that changes can be read."""

    def text(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def block(lines: Sequence[str]) -> str:
        return ",\n".join(lines)

    head = [f"{text(key)}:{text(value)}" for key, value in piper.items() if key != "voices"]
    voices = [f"{text(key)}:{text(row)}" for key, row in piper["voices"].items()]
    return (
        f'{{"piper":{{\n{block(head)},\n"voices":{{\n{block(voices)}\n}}}},\n'
        f'"models":[\n{block([text(model) for model in models])}\n]}}\n'
    )


def _row(key: str, voice: _Json) -> list[Any]:
    files = voice["files"]
    if voice["key"] != key or set(files) != set(paths(key)):
        raise ValueError(key)
    row: list[Any] = []
    for path in paths(key):
        row += [int(files[path]["size_bytes"]), str(files[path]["md5_digest"])]
    ids = voice.get("speaker_id_map") or {}
    speakers = sorted(ids, key=lambda name: int(ids[name]))
    count = int(voice.get("num_speakers", 1))
    if count > 1 and len(speakers) != count:
        speakers = [str(number) for number in range(count)]
    more: dict[str, list[str]] = {}
    if voice.get("aliases"):
        more["aliases"] = [str(alias) for alias in voice["aliases"]]
    if count > 1:
        more["speakers"] = speakers
    return [*row, more] if more else row


def _language(language: _Json) -> str:
    name, country = str(language.get("name_english", "")), str(language.get("country_english", ""))
    return f"{name} ({country})" if name and country else name
