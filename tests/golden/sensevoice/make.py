"""Make the SenseVoice goldens: a tiny model in every format, and what the reference programs hear with it.

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 funasr==1.4.16 funasr-onnx==0.4.3 sherpa-onnx==2.0.1 \
        kaldi-native-fbank==1.23.0 sentencepiece==0.2.3 onnx==1.23.2 onnxruntime==1.31.1 onnxscript==0.7.2 soundfile
    ENV/bin/python tests/golden/sensevoice/make.py [FOLDER]

It takes some minutes (Python 3.11, a CPU). Tests need none of this, only what it wrote: the graphs, `tokens.txt`,
`am.mvn`, `expected.json` and `logits.npz`. FOLDER is where it writes them, by default beside this file.

The model has SenseVoice's layers, few and narrow, random and then trained for a moment on the signals' sounds: the
first four frames give language, emotion, event and text norm as those of the published model do, later frames give
invented words, and a quarter of the sounds the blank. So the text and its times can be compared, not only the ids.

Who confirms what, id by id, when this runs:

    model.onnx, model_dynamo.onnx   funasr (torch) and funasr-onnx
    model_quant.onnx                funasr-onnx
    sherpa.onnx                     funasr (torch) and sherpa-onnx, the latter with text and times
    sherpa.int8.onnx                sherpa-onnx, with text and times
    rknn-*.onnx                     funasr's layers (torch) with CMVN after padding with zeros, all frames valid
    happyme531, rkvoice             the same with CMVN before padding with the last frame; the tests make these graphs
                                    from model.onnx with script/sensevoice-layouts

sherpa-onnx runs its static graphs on a board only. Static graphs have no masks: the padding is heard, so a bucket's ids
are its own and are compared with the same frames in torch, never with those of another bucket.

Greedy decoding has no margin: where two tokens are all but equally likely, the last bit decides. So each signal is the
first of a series whose ids stay the same, in every format, when its features are shaken by far more than processors and
versions of libraries differ by.
"""

import importlib.metadata
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import funasr
import funasr_onnx
import numpy as np
import onnxruntime
import sherpa_onnx
import torch
from formats import BUCKETS, export
from model import LANGUAGES, SEED, STYLES, Features, create, fbank, hidden, lfr, normalised, write_parts
from signals import RATE_HZ, as_float, checksum, signal

LOGGER = logging.getLogger("golden")
SAMPLES = (
    400,
    4_800,
    8_000,
    11_111,
    16_000,
    24_000,
    32_000,
    48_000,
    48_480,
    69_000,
    104_321,
    160_000,
    208_000,
    320_000,
)
"""From one frame to 20 s; among them lengths that fill the smallest bucket exactly and by one row too much."""
MODES = tuple((language, itn) for language in ("auto", "en") for itn in (True, False))
LAYOUTS = {"happyme531": (171, 1.0), "happyme531 at half scale": (171, 0.5), "rkvoice": (344, 1.0)}
"""Rows with the prompt, and what speech is multiplied by."""
SHAKES = 12
SHAKE = 2e-5
"""Of the log mel energies."""
LOGIT_SIGNALS = (4, 8)
LOGIT_ROWS, LOGIT_COLUMNS = 12, slice(0, None, 5)
CONFIRMED = {
    "model.onnx": ("funasr", "funasr-onnx"),
    "model_dynamo.onnx": ("funasr", "funasr-onnx"),
    "model_quant.onnx": ("funasr-onnx",),
    "sherpa.onnx": ("funasr", "sherpa-onnx"),
    "sherpa.int8.onnx": ("sherpa-onnx",),
    **dict.fromkeys((*BUCKETS, *LAYOUTS), ("funasr's layers on the padded frames",)),
}
PACKAGES = ("torch", "funasr", "funasr-onnx", "sherpa-onnx", "kaldi-native-fbank", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Heard:
    """Ids after the repeats and blanks are gone, and the frame at which each begins."""

    ids: tuple[int, ...]
    frames: tuple[int, ...]

    @classmethod
    def of(cls, logits: Features) -> "Heard":
        best = logits.argmax(axis=1)
        begins = [i for i, number in enumerate(best) if number != 0 and (i == 0 or best[i - 1] != number)]
        return cls(tuple(int(best[i]) for i in begins), tuple(begins))


class Recorder:
    """Stands in for a tokenizer and keeps the ids that it is to turn into text."""

    def __init__(self) -> None:
        self.ids: tuple[int, ...] = ()

    def decode(self, ids: list[int], **_: object) -> str:
        self.ids = tuple(ids)
        return ""


class References:
    """The reference programs on the files in a folder."""

    def __init__(self, auto: funasr.AutoModel, folder: Path) -> None:
        self.auto = auto
        lines = (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()
        self.numbers = {line.rsplit(" ", 1)[0].replace("▁", " "): number for number, line in enumerate(lines)}
        self.official = {}
        for name in ("model.onnx", "model_quant.onnx", "model_dynamo.onnx"):
            # funasr-onnx insists on its file names.
            scratch = shutil.copytree(folder, folder.with_name(f"{folder.name}-{name}"))
            shutil.copyfile(folder / name, scratch / "model.onnx")
            self.official[name] = funasr_onnx.SenseVoiceSmall(str(scratch), intra_op_num_threads=1)
        self.sherpa = {
            (name, language, itn): sherpa_onnx.OfflineRecognizer.from_sense_voice(
                str(folder / name), str(folder / "tokens.txt"), language=language, use_itn=itn
            )
            for name in ("sherpa.onnx", "sherpa.int8.onnx")
            for language, itn in MODES
        }

    def funasr(self, samples: Features, language: str, itn: bool) -> tuple[int, ...]:
        recorder = Recorder()
        options = self.auto.kwargs | {"tokenizer": recorder, "language": language, "use_itn": itn, "device": "cpu"}
        with torch.no_grad():
            self.auto.model.inference([samples], key=["signal"], **options)
        return recorder.ids

    def funasr_onnx(self, name: str, samples: Features, language: str, itn: bool) -> tuple[int, ...]:
        recorder = self.official[name].tokenizer = Recorder()
        self.official[name](samples, language=[language], textnorm=["withitn" if itn else "woitn"])
        return recorder.ids

    def sherpa_onnx(self, name: str, samples: Features, language: str, itn: bool) -> tuple[Heard, str]:
        """Return what follows the four tags, and the text."""
        recognizer = self.sherpa[name, language, itn]
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE_HZ, samples)
        recognizer.decode_stream(stream)
        result = stream.result
        ids = tuple(self.numbers[token] for token in result.tokens)
        return Heard(ids, tuple(round(time_s / 0.06) + 4 for time_s in result.timestamps)), result.text


class Graphs:
    """Every format's logits from given frames, without anybody's front end."""

    def __init__(self, auto: funasr.AutoModel, folder: Path) -> None:
        self.model = auto.model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {
            path.name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in sorted(folder.glob("*.onnx"))
        }

    def formats(self, rows: int) -> Iterator[str]:
        """Yield the formats that take so many rows of speech, the touchiest first."""
        yield from ("model_quant.onnx", "sherpa.int8.onnx", "model.onnx", "model_dynamo.onnx", "sherpa.onnx")
        yield from (name for name, capacity in BUCKETS.items() if rows <= capacity)
        yield from (name for name, (capacity, _) in LAYOUTS.items() if rows <= capacity - 4)

    @torch.no_grad()
    def torch(self, name: str, raw: Features, language: str, itn: bool) -> Features:
        """Return what funasr's layers make of rows [T, 560], float32 [T + 4, V]."""
        x = normalised(raw)
        if name in BUCKETS:
            x = normalised(np.pad(raw, ((0, BUCKETS[name] - len(raw)), (0, 0))))
        elif name in LAYOUTS:
            capacity, scale = LAYOUTS[name]
            x = np.pad(x * np.float32(scale), ((0, capacity - 4 - len(raw)), (0, 0)), "edge")
        encoded = hidden(self.model, x, LANGUAGES[language], itn)[: len(raw) + 4]
        logits: Features = self.model.ctc.ctc_lo(encoded).numpy()
        return logits

    def logits(self, name: str, raw: Features, language: str, itn: bool) -> Features:
        """Return a format's float32 [T + 4, V] for rows [T, 560]."""
        if name in LAYOUTS:
            return self.torch(name, raw, language, itn)
        language_id, style = LANGUAGES[language], STYLES[itn]
        if name in BUCKETS:
            padded = np.pad(raw, ((0, BUCKETS[name] - len(raw)), (0, 0)))
            values: list[Any] = [padded[None], np.array([language_id, 1, 2, style], np.int32)]
        else:
            values = [normalised(raw)[None], *np.array([[len(raw)], [language_id], [style]], np.int32)]
        session = self.sessions[name]
        feeds = {given.name: value for given, value in zip(session.get_inputs(), values, strict=True)}
        logits: Features = session.run(None, feeds)[0][0, : len(raw) + 4]
        return logits

    def is_steady(self, frames: Features) -> bool:
        """Tell whether noise in the features leaves every id of every format and mode where it is."""
        random = np.random.default_rng(SEED)
        noises = [random.uniform(-SHAKE, SHAKE, frames.shape).astype(np.float32) for _ in range(SHAKES)]
        raw, shaken = lfr(frames), [lfr(frames + noise) for noise in noises]
        for name in self.formats(len(raw)):
            for mode in MODES:
                heard = Heard.of(self.logits(name, raw, *mode))
                if any(Heard.of(self.logits(name, rows, *mode)) != heard for rows in shaken):
                    return False
        return True


def steady_seed(graphs: Graphs, number: int, samples: int) -> int:
    for seed in range(1_000 * number, 1_000 * number + 200):
        if graphs.is_steady(fbank(as_float(signal(samples, seed)))):
            return seed
    raise SystemExit(f"no signal of {samples} samples is steady; the model is too undecided")


def case(graphs: Graphs, references: References, samples: Features, language: str, itn: bool) -> dict[str, Any]:
    """Return what every format hears; the references must have heard the same."""
    raw = lfr(fbank(samples))
    distinct: list[Heard] = []
    by_format: dict[str, int] = {}
    texts: dict[str, str] = {}
    for name in graphs.formats(len(raw)):
        logits = graphs.logits(name, raw, language, itn)
        heard = Heard.of(logits)
        if "quant" not in name and "int8" not in name:
            distance = float(np.abs(logits - graphs.torch(name, raw, language, itn)).max())
            agree(distance < 1e-3, name, "torch", distance)
        for who in CONFIRMED[name]:
            if who == "funasr":
                told = references.funasr(samples, language, itn)
                agree(told == heard.ids, name, who, told)
            elif who == "funasr-onnx":
                told = references.funasr_onnx(name, samples, language, itn)
                agree(told == heard.ids, name, who, told)
            elif who == "sherpa-onnx":
                rest, texts[name] = references.sherpa_onnx(name, samples, language, itn)
                agree(rest == Heard(heard.ids[4:], heard.frames[4:]), name, who, rest)
        if heard not in distinct:
            distinct.append(heard)
        by_format[name] = distinct.index(heard)
    heard_lists = [{"ids": one.ids, "frames": one.frames} for one in distinct]
    return {"language": language, "itn": itn, "formats": by_format, "heard": heard_lists, "texts": texts}


def agree(is_true: bool, name: str, who: str, told: object) -> None:
    if not is_true:
        raise SystemExit(f"{name} and {who} disagree: {told}")


def logits_of(graphs: Graphs, samples: Features) -> Iterator[tuple[str, Features]]:
    raw = lfr(fbank(samples))
    rows = np.linspace(0, len(raw) + 3, LOGIT_ROWS).round().astype(int)
    for name in graphs.formats(len(raw)):
        yield name, graphs.logits(name, raw, "en", True)[rows, LOGIT_COLUMNS]


def main() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    LOGGER.setLevel(logging.INFO)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        write_parts(folder)
        auto = create(folder)
        export(auto, folder)
        graphs, references = Graphs(auto, folder), References(auto, folder)
        signals, cases, logits = [], [], {}
        for number, length in enumerate(SAMPLES):
            seed = steady_seed(graphs, number, length)
            pcm = signal(length, seed)
            signals.append({"samples": length, "seed": seed, "sha256": checksum(pcm)})
            for language, itn in MODES:
                cases.append({"signal": number} | case(graphs, references, as_float(pcm), language, itn))
            if number in LOGIT_SIGNALS:
                logits |= {f"{number} {name}": values for name, values in logits_of(graphs, as_float(pcm))}
            LOGGER.info("%d samples: seed %d, %s", length, seed, cases[-1]["texts"])
        target.mkdir(parents=True, exist_ok=True)
        for path in (*folder.glob("*.onnx*"), folder / "tokens.txt", folder / "am.mvn"):
            shutil.copyfile(path, target / path.name)
    made_with = {package: importlib.metadata.version(package) for package in PACKAGES}
    header = {"made_with": made_with, "confirmed_by": CONFIRMED}
    logit_facts = {"language": "en", "itn": True, "rows": LOGIT_ROWS, "column_step": LOGIT_COLUMNS.step}
    lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in cases]
    signal_lines = [json.dumps(one) for one in signals]
    text = json.dumps(header | {"logits": logit_facts}, indent=1, ensure_ascii=False).removesuffix("\n}")
    text += (
        ',\n "signals": [\n  '
        + ",\n  ".join(signal_lines)
        + '\n ],\n "cases": [\n  '
        + ",\n  ".join(lines)
        + "\n ]\n}\n"
    )
    (target / "expected.json").write_text(text, encoding="utf-8")
    np.savez_compressed(target / "logits.npz", **logits)


if __name__ == "__main__":
    main()
