"""SenseVoice hears what funasr, funasr-onnx and sherpa-onnx hear, id by id; see sensevoice/make.py."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import pytest
from computing import on_cpu
from golden.sensevoice.signals import as_float, checksum, signal

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.sensevoice import ctc, tokens
from wyoming_rknn.asr.sensevoice.engine import create
from wyoming_rknn.asr.sensevoice.graphs import Bucket, open_bucket, read_cmvn, read_embedding
from wyoming_rknn.features.fbank import Fbank, stack_frames
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.runtime.graph import Cancellation, Tensor
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

FOLDER = Path(__file__).parent / "sensevoice"
SCRIPT = Path(__file__).parents[2] / "script" / "sensevoice-layouts"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
FORMATS = tuple(EXPECTED["confirmed_by"])
MADE = {
    "happyme531": ("happyme531",),
    "happyme531 at half scale": ("happyme531", "--speech-scale", "0.5"),
    "rkvoice": ("rkvoice",),
}
BUCKETS = ("rknn-3s.onnx", "rknn-10s.onnx", "rknn-20s.onnx")
TOLERANCE = 1e-3
"""Of logits, which spread over some tens. Noise of 1e-4 in the log mel energies moves them by 2e-4 at most."""
INT8_TOLERANCE = 0.5
"""The same noise moves those of quantised graphs by 0.16: activations are rounded to 8 bits, one way or the other."""


@dataclass(frozen=True)
class Case:
    """A signal in one mode and what a format hears of it."""

    signal: int
    language: str | None
    itn: bool
    ids: list[int]
    frames: list[int]
    text: str | None
    """What sherpa-onnx writes, where it reads the format."""

    @property
    def title(self) -> str:
        return f"{EXPECTED['signals'][self.signal]['samples']} samples, {self.language or 'auto'}, itn {self.itn}"


@dataclass
class Listened:
    """A graph that keeps what it computes."""

    graph: Any
    answers: list[Tensor]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.graph, name)

    def run(self, feeds: dict[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        made = self.graph.run(feeds, cancellation)
        self.answers.append(made[Layout.of(self.graph.inputs, self.graph.outputs).logits])
        return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each format, in which it lies alone."""
    made: dict[str, Path] = {}
    for number, name in enumerate(FORMATS):
        folder = made[name] = tmp_path_factory.mktemp(f"format{number}") / "golden"
        folder.mkdir()
        if name in MADE:
            layout, *options = MADE[name]
            command = [sys.executable, SCRIPT, layout, FOLDER / "model.onnx", folder, *options]
            subprocess.run(command, check=True, timeout=60)
        else:
            for path in (*FOLDER.glob(f"{name}*"), FOLDER / "tokens.txt", FOLDER / "am.mvn"):
                shutil.copy(path, folder)
    return made


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    scheduler.close(5)


@cache
def samples(number: int) -> np.ndarray:
    facts = EXPECTED["signals"][number]
    return as_float(signal(facts["samples"], facts["seed"]))


@cache
def rows(number: int) -> np.ndarray:
    fbank = Fbank()
    for begin in range(0, len(samples(number)), 1_357):
        fbank.accept(samples(number)[begin : begin + 1_357])
    return stack_frames(fbank.frames())


@cache
def pieces() -> list[str]:
    lines = (FOLDER / "tokens.txt").read_text(encoding="utf-8").splitlines()
    return [line.rsplit(" ", 1)[0].replace("▁", " ") for line in lines]


def cases(name: str) -> Iterator[Case]:
    """Yield the cases that fit into a format."""
    for one in EXPECTED["cases"]:
        if name in one["formats"]:
            heard = one["heard"][one["formats"][name]]
            language = None if one["language"] == "auto" else one["language"]
            yield Case(one["signal"], language, one["itn"], **heard, text=one["texts"].get(name))


def opened(folder: Path, answers: list[Tensor] | None = None) -> Bucket:
    (path,) = folder.glob("*.onnx")
    embedding = folder / "embedding.npy"

    def load(path: Path) -> Any:
        graph = on_cpu().load(path)
        return graph if answers is None else Listened(graph, answers)

    embedded = read_embedding(embedding) if embedding.exists() else None
    return open_bucket(path, load, len(tokens.read(folder / "tokens.txt")), read_cmvn(folder / "am.mvn"), embedded)


def logits_of(bucket: Bucket, answers: list[Tensor], number: int) -> np.ndarray:
    """Return those frames and columns of the logits that are stored."""
    facts = EXPECTED["logits"]
    answers.clear()
    bucket.best(rows(number), facts["language"], facts["itn"])
    logits = answers[0][0].T if bucket.layout.transposed else answers[0][0]
    return stored_part(logits, len(rows(number)))


def stored_part(logits: np.ndarray, count: int) -> np.ndarray:
    facts = EXPECTED["logits"]
    frames = np.linspace(0, count + 3, facts["rows"]).round().astype(int)
    return logits[frames, :: facts["column_step"]]


def golden_logits(name: str) -> dict[int, np.ndarray]:
    """Return what is stored of a format's logits, by signal."""
    with np.load(FOLDER / "logits.npz") as stored:
        return {int(key.split(" ", 1)[0]): stored[key] for key in stored if key.split(" ", 1)[1] == name}


def test_the_signals_are_those_that_the_references_heard() -> None:
    for number, facts in enumerate(EXPECTED["signals"]):
        pcm = np.rint(samples(number) * 32768).astype(np.int16)
        assert len(pcm) == facts["samples"]
        assert checksum(pcm) == facts["sha256"]


def test_the_goldens_cover_what_they_are_for() -> None:
    lengths = [facts["samples"] for facts in EXPECTED["signals"]]
    assert len([length for length in lengths if 4_800 <= length <= 320_000]) >= 11
    assert {4_800, 320_000} <= set(lengths)
    assert {(one["language"], one["itn"]) for one in EXPECTED["cases"]} == {
        (language, itn) for language in ("auto", "en") for itn in (True, False)
    }
    assert {path.name for path in FOLDER.glob("*.onnx")} == set(FORMATS) - set(MADE)


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_those_of_the_references(name: str, folders: dict[str, Path]) -> None:
    bucket = opened(folders[name])
    for case in cases(name):
        best = bucket.best(rows(case.signal), case.language, case.itn)
        assert best is not None
        heard = ctc.greedy(best)
        assert [token.id for token in heard] == case.ids, case.title
        assert [token.row for token in heard] == case.frames, case.title
    bucket.close()


@pytest.mark.parametrize("name", FORMATS)
def test_the_engine_gives_their_text_and_times(name: str, folders: dict[str, Path], scheduler: Scheduler) -> None:
    for itn in (True, False):
        engine = create(Settings(data_dir=(folders[name],), threads=1, no_itn=not itn), on_cpu())
        (model,) = engine.models()
        for case in cases(name):
            if case.itn != itn:
                continue
            session = engine.open(model.name, case.language, Bias())
            session.accept(samples(case.signal))
            heard = session.finish(scheduler.stream())
            wanted = [(pieces()[token], frame) for token, frame in zip(case.ids, case.frames, strict=True)]
            tags = [text.strip("<|>") for text, _ in wanted if text.startswith("<|")]
            spoken = [(text, frame) for text, frame in wanted if not text.startswith("<|")]
            assert heard.text == "".join(text for text, _ in spoken).strip(), case.title
            assert case.text is None or heard.text == case.text.strip(), case.title
            assert heard.language == next((tag for tag in tags if tag in model.languages), None)
            # A space that stands alone goes with what follows, so only where each piece has text are there as many.
            if all(text.strip() for text, _ in spoken):
                times = [round(0.06 * max(0, frame - 4), 3) for _, frame in spoken]
                assert [piece.begin_s for piece in heard.pieces] == times, case.title
            session.close()
        engine.close()


def test_the_smallest_bucket_that_fits_hears(tmp_path: Path, scheduler: Scheduler) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    for path in (*(FOLDER / name for name in BUCKETS), FOLDER / "tokens.txt"):
        shutil.copy(path, folder)
    engine = create(Settings(data_dir=(folder,)), on_cpu())
    (model,) = engine.models()
    expected = {name: {(case.signal, case.language, case.itn): case for case in cases(name)} for name in BUCKETS}
    used = set()
    for number in range(len(EXPECTED["signals"])):
        bucket = next(name for name in BUCKETS if (number, "en", True) in expected[name])
        session = engine.open(model.name, "en", Bias())
        session.accept(samples(number))
        wanted = [pieces()[token] for token in expected[bucket][number, "en", True].ids]
        text = "".join(piece for piece in wanted if not piece.startswith("<|")).strip()
        assert session.finish(scheduler.stream()).text == text
        used.add(bucket)
    assert used == set(BUCKETS)
    engine.close()


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_references(name: str, folders: dict[str, Path]) -> None:
    answers: list[Tensor] = []
    bucket = opened(folders[name], answers)
    golden = golden_logits(name)
    assert golden
    tolerance = INT8_TOLERANCE if "quant" in name or "int8" in name else TOLERANCE
    for number, wanted in golden.items():
        assert np.abs(logits_of(bucket, answers, number) - wanted).max() < tolerance
    bucket.close()


def kaldi(waveform: np.ndarray, **options: Any) -> np.ndarray:
    """Return filter banks with options that are wrong."""
    made = kaldi_native_fbank.FbankOptions()
    frame = made.frame_opts
    frame.dither, frame.window_type, frame.snip_edges, made.mel_opts.num_bins = 0.0, "hamming", True, 80
    made.energy_floor = 0.0
    for option, value in options.items():
        owner = frame if hasattr(frame, option) else made.mel_opts if hasattr(made.mel_opts, option) else made
        setattr(owner, option, value)
    computer = kaldi_native_fbank.OnlineFbank(made)
    computer.accept_waveform(16_000, waveform.tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(index) for index in range(computer.num_frames_ready)])


def without_left_padding(frames: np.ndarray) -> np.ndarray:
    indices = np.arange(-(-len(frames) // 6))[:, None] * 6 + np.arange(7)
    return frames[np.minimum(indices, len(frames) - 1)].reshape(-1, 560)


SLIPS = {
    "povey window": lambda wave: stack_frames(kaldi(wave * 32768, window_type="povey")),
    "hann window": lambda wave: stack_frames(kaldi(wave * 32768, window_type="hanning")),
    "dither": lambda wave: stack_frames(kaldi(wave * 32768, dither=1.0)),
    "no scaling": lambda wave: stack_frames(kaldi(wave)),
    "no pre-emphasis": lambda wave: stack_frames(kaldi(wave * 32768, preemph_coeff=0.0)),
    "amplitudes for powers": lambda wave: stack_frames(kaldi(wave * 32768, use_power=False)),
    "edges not snipped": lambda wave: stack_frames(kaldi(wave * 32768, snip_edges=False))[
        : -(-(1 + (len(wave) - 400) // 160) // 6)
    ],
    "no left padding": lambda wave: without_left_padding(kaldi(wave * 32768)),
    "from 0 Hz": lambda wave: stack_frames(kaldi(wave * 32768, low_freq=0.0)),
    "to 7600 Hz": lambda wave: stack_frames(kaldi(wave * 32768, high_freq=-400.0)),
}


@pytest.mark.parametrize("slip", [None, *SLIPS])
def test_stored_logits_tell_a_slip_in_the_features(slip: str | None, folders: dict[str, Path]) -> None:
    """What greedy decoding would hide."""
    answers: list[Tensor] = []
    bucket = opened(folders["model.onnx"], answers)
    distances = []
    for number, wanted in golden_logits("model.onnx").items():
        wave = samples(number)
        wrong = SLIPS[slip](wave) if slip else stack_frames(kaldi(wave * 32768))
        answers.clear()
        bucket.best(wrong, EXPECTED["logits"]["language"], EXPECTED["logits"]["itn"])
        distances.append(np.abs(stored_part(answers[0][0], len(wrong)) - wanted).max())
    if slip:
        assert min(distances) > 5 * TOLERANCE
    else:
        assert max(distances) < TOLERANCE


@pytest.mark.parametrize("name", ["model.onnx", "sherpa.onnx", "rknn-3s.onnx", "happyme531"])
@pytest.mark.parametrize("slip", ["language", "text norm", "cmvn", "padding"])
def test_stored_logits_tell_a_slip_in_what_a_graph_is_fed(name: str, slip: str, folders: dict[str, Path]) -> None:
    facts, answers = EXPECTED["logits"], []
    bucket = opened(folders[name], answers)
    language = "zh" if slip == "language" else facts["language"]
    itn = facts["itn"] if slip != "text norm" else not facts["itn"]
    is_inside = bucket.cmvn is None
    if slip == "cmvn":
        bucket = replace(bucket, cmvn=None)
    for number, wanted in golden_logits(name).items():
        fed = rows(number)
        if slip == "cmvn" and is_inside:
            fed = read_cmvn(FOLDER / "am.mvn").apply(fed)
        elif slip == "padding" and bucket.capacity is None:
            fed = np.pad(fed, ((0, 1), (0, 0)), "edge")
        elif slip == "padding":
            fed = np.pad(fed, ((0, bucket.capacity - len(fed)), (0, 0)), "edge" if is_inside else "constant")
        answers.clear()
        bucket.best(fed, language, itn)
        logits = answers[0][0].T if bucket.layout.transposed else answers[0][0]
        assert np.abs(stored_part(logits, len(rows(number))) - wanted).max() > 5 * TOLERANCE
    bucket.close()


@pytest.mark.parametrize("name", FORMATS)
def test_less_than_a_frame_is_nothing(name: str, folders: dict[str, Path], scheduler: Scheduler) -> None:
    engine = create(Settings(data_dir=(folders[name],)), on_cpu())
    session = engine.open(engine.models()[0].name, None, Bias())
    session.accept(samples(0)[:399])
    assert session.finish(scheduler.stream()).text == ""
    engine.close()
