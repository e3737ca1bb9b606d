"""SenseVoice for an NPU: a graph of fixed length for each bucket, with numbers that 16-bit floats hold.

What is converted is either an export of FunASR or sherpa-onnx in fp32, of which the buckets are made (see
`sensevoice_static`), or graphs that are of fixed length already, which keep their inputs and outputs.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from wyoming_rknn.asr.sensevoice.graphs import Bucket, open_bucket
from wyoming_rknn.convert import output, sensevoice_source, sensevoice_static, static
from wyoming_rknn.convert.agreement import compare
from wyoming_rknn.convert.overflow import LARGEST, Rescaled, peaks, rescale
from wyoming_rknn.convert.probe import Probe
from wyoming_rknn.convert.report import ConversionReport, ConvertOptions, GraphReport
from wyoming_rknn.convert.sensevoice_source import Source
from wyoming_rknn.convert.toolkit import BuildRequest, Toolkit, check_target
from wyoming_rknn.errors import ConversionError, UsageError
from wyoming_rknn.features.fbank import Cmvn, Features
from wyoming_rknn.models.formats.sensevoice import KIND
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.npu.selftest import Golden, golden_path
from wyoming_rknn.runtime import onnx as cpu
from wyoming_rknn.runtime.graph import Cancellation, Tensor, TensorSpec

LAYOUT = "sensevoice-rknn"
LEAST_AGREEMENT = 0.99
"""Share of frames for which the simulator must find the token that ONNX Runtime finds."""

_TIE = 0.01
"""Tokens are as likely if they differ by this share of all that a frame's logits differ by: 16 bits are no finer."""
_THREADS = 2
_SECONDS = range(1, 31)
"""The model was trained on less than half a minute."""
_USUAL_SECONDS = (3, 5, 10, 20)
_TIMEOUT_S = 3600.0
"""A graph of full size takes 2 to 6 minutes on two fast cores."""
_ROW_S = 0.06
_AM_MVN, _EMBEDDING = "am.mvn", "embedding.npy"
_NOTES = (
    *("model_type", "version", "lfr_window_size", "lfr_window_shift", "normalize_samples", "vocab_size"),
    *("lang_auto", "lang_zh", "lang_en", "lang_yue", "lang_ja", "lang_ko", "lang_nospeech", "with_itn", "without_itn"),
    *("SPEECH_SCALE", "speech_scale"),
)
"""Of the source's metadata what tells how to feed the graph, which is kept in the model."""
_MOST_NOTES = 1000
"""Bytes of notes; the toolkit keeps 1024."""
_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class _Recorder:
    """A graph on the CPU that keeps what it was fed last, and what it gave."""

    graph: cpu.OnnxGraph
    metadata: Mapping[str, str]
    feeds: dict[str, Tensor] = field(default_factory=dict)
    results: dict[str, Tensor] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.graph.outputs

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        self.feeds, self.results = dict(feeds), self.graph.run(feeds, cancellation)
        return self.results

    def close(self) -> None:
        self.graph.close()


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a graph computed of speech before it was converted."""

    bucket: Bucket
    """Closed."""
    golden: Golden
    feeds: Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class _Made:
    """A bucket that was converted."""

    report: GraphReport
    agreement: float
    rescaled: Rescaled


@dataclass(slots=True)
class _Conversion:
    """One model on its way into a folder."""

    source: Source
    target: str
    folder: Path
    options: ConvertOptions
    toolkit: Toolkit
    probe: Probe
    peaks: dict[str, float] = field(default_factory=dict)
    """The largest numbers that any bucket computed so far, by tensor."""

    def buckets(self) -> Iterator[_Made]:
        """Convert one after the other, the longest first: what it is tried with is the most."""
        if self.source.is_static:
            for path in reversed(self.source.graphs):
                model = static.read(path)
                sensevoice_static.simplify(model)
                yield self._bucket(model, self.source.embedding)
            return
        model = static.read(self.source.graphs[0])
        embedding = sensevoice_static.embedding_of(model.graph)
        np.save(self.folder / _EMBEDDING, embedding)
        for seconds in sorted(set(_seconds(self.options)), reverse=True):
            frames = sensevoice_static.frames_for(seconds)
            yield self._bucket(sensevoice_static.fix(model, frames), embedding, seconds)

    def _bucket(self, model: onnx.ModelProto, embedding: Features | None, seconds: int | None = None) -> _Made:
        graph = self.folder / ".fixed.onnx"
        onnx.save(model, graph)
        tried = self._try(graph, embedding)
        if tried.bucket.cmvn is not None:
            (self.folder / _AM_MVN).write_text(kaldi(tried.bucket.cmvn), encoding="ascii")
        stem = self._stem(tried.bucket, seconds)
        name = f"{self.source.name} {stem}"
        mine = peaks(model, tried.feeds, _THREADS)
        for tensor, peak in mine.items():
            self.peaks[tensor] = max(peak, self.peaks.get(tensor, 0.0))
        rescaled = rescale(model, {tensor: self.peaks[tensor] for tensor in mine})
        self._tell(name, rescaled)
        frames = tried.bucket.layout.frames or 0
        onnx.save(model, graph)
        del model
        built = self.toolkit.build(
            BuildRequest(
                name=name,
                graph=graph,
                target=self.target,
                inputs=tried.golden.inputs,
                out=self.folder / f"{stem}.rknn",
                custom_string=self._notes(frames, rescaled),
                timeout_s=self.options.timeout_s or _TIMEOUT_S,
                allow_regtask=self.options.allow_regtask,
                smaller="leave the longest graph out"
                if self.source.is_static
                else "take shorter graphs with --seconds LIST",
            )
        )
        graph.unlink()
        label = f"{name} for {self.target}"
        closeness = compare(label, tried.golden, built.simulated)
        share = agreement(tried.bucket.layout, tried.golden.outputs, built.simulated)
        if share < LEAST_AGREEMENT:
            raise ConversionError(
                f"{label}, simulated, finds other tokens than ONNX Runtime in {1 - share:.1%} of the frames; try the "
                "other toolkit with --toolkit, or leave it to the CPU"
            )
        golden = golden_path(built.rknn)
        tried.golden.write(golden)
        return _Made(GraphReport.of(built, closeness, golden, frames), share, rescaled)

    def _try(self, graph: Path, embedding: Features | None) -> _Tried:
        """Let the CPU hear speech in all languages, fed as the server feeds it."""
        recorder = _Recorder(cpu.load(graph, threads=_THREADS), self.source.metadata)
        bucket = open_bucket(graph, lambda _path: recorder, self.source.vocabulary, self.source.cmvn, embedding)
        feeds: list[Mapping[str, Tensor]] = []
        golden: Golden | None = None
        with contextlib.closing(bucket):
            for number, language in enumerate(self.probe.languages):
                rows = self.probe.rows(bucket.capacity or 0, language)
                if bucket.best(rows, language, itn=number % 2 == 0) is None:
                    raise ConversionError(
                        f"{self.source.name} computes NaN or infinity even on the CPU; download the model again"
                    )
                feeds.append(recorder.feeds)
                golden = golden or Golden(recorder.feeds, recorder.results, self.options.floor_db)
        assert golden is not None
        return _Tried(bucket, golden, feeds)

    def _stem(self, bucket: Bucket, seconds: int | None) -> str:
        if seconds is None:
            seconds = round((bucket.capacity or 0) * _ROW_S)
        stem = f"encoder-{seconds}s"
        return f"encoder-{bucket.capacity}" if (self.folder / f"{stem}.rknn").exists() else stem

    def _notes(self, frames: int, rescaled: Rescaled) -> str:
        notes = {name: self.source.metadata[name] for name in _NOTES if name in self.source.metadata}
        notes = {name: value for name, value in notes.items() if not set(value) & set(";=\n\r\0")}
        notes |= {"frames": str(frames), "source": self.source.sha256[:16]}
        if rescaled.divisor > 1:
            notes["divisor"] = str(rescaled.divisor)
        while len(text := ";".join(f"{name}={value}" for name, value in notes.items()).encode()) > _MOST_NOTES:
            notes.popitem()
        return text.decode()

    def _tell(self, name: str, rescaled: Rescaled) -> None:
        if rescaled.divisor > 1:
            _LOGGER.info(
                "%s: numbers up to %.0f would overflow 16-bit floats; %d layers are rescaled by 1/%d, exactly",
                name,
                rescaled.largest,
                len(rescaled.tensors),
                rescaled.divisor,
            )
        if rescaled.beyond:
            _LOGGER.warning(
                "%s: %d layers come near to %.0f, the largest 16-bit float, and cannot be rescaled (%s)",
                name,
                len(rescaled.beyond),
                LARGEST,
                ", ".join(rescaled.beyond[:3]),
            )


def check_sensevoice(source: Path, target: str, out: Path, options: ConvertOptions) -> None:
    """Raise what `convert_sensevoice` would raise, as far as can be told at once."""
    check_target(target)
    if options.frames is not None:
        raise UsageError("--frames is for voices; the lengths of a recogniser's graphs are set with --seconds LIST")
    wrong = [str(seconds) for seconds in _seconds(options) if seconds not in _SECONDS]
    if wrong or not _seconds(options):
        raise UsageError(
            f"--seconds {','.join(wrong) or '(none)'} must be whole numbers from {_SECONDS[0]} to {_SECONDS[-1]}"
        )
    output.check(out)
    sensevoice_source.find(source)


def convert_sensevoice(
    source: Path, target: str, out: Path, options: ConvertOptions, toolkit: Toolkit, cache_dir: Path
) -> ConversionReport:
    """Convert a model, a graph or the folder of one, into the folder `out`: `encoder-3s.rknn` and so on.

    Blocks, for minutes per bucket of a model of full size. `cache_dir` is not used. Raises `UsageError` for a wrong
    target, bucket or `out`; `ModelError` for a model that is missing, broken or in 8 bits; `ConversionError` if the
    toolkit fails or its result cannot be trusted; `EngineError` if espeak-ng cannot say what the model is tried with.
    """
    del cache_dir
    check_sensevoice(source, target, out, options)
    with output.workspace(out) as folder:
        model = sensevoice_source.read(source)
        shutil.copyfile(model.tokens, folder / model.tokens.name)
        if model.embedding is not None:
            np.save(folder / _EMBEDDING, model.embedding)
        made = list(_Conversion(model, target, folder, options, toolkit, Probe()).buckets())
        made.sort(key=lambda one: one.report.frames)
        reports = tuple(one.report for one in made)
        output.write_manifest(
            folder,
            kind=KIND,
            layout=LAYOUT,
            name=model.name,
            source=(source.absolute().name, model.sha256),
            target=target,
            toolkit=toolkit.version,
            graphs=reports,
            more={
                "agreement": {one.report.file: round(one.agreement, 4) for one in made},
                "divisors": {one.report.file: one.rescaled.divisor for one in made},
            },
            made_of=source,
        )
    return ConversionReport(out, target, toolkit.version, reports)


def _seconds(options: ConvertOptions) -> tuple[int, ...]:
    return _USUAL_SECONDS if options.seconds is None else options.seconds


def agreement(layout: Layout, reference: Mapping[str, Tensor], simulated: Mapping[str, Tensor]) -> float:
    """Return the share of frames for which both find the same token, or one that is as likely as the best."""
    expected = reference[layout.logits]
    found = simulated[layout.logits].reshape(expected.shape)
    axis = 1 if layout.transposed else 2
    best, least = expected.max(axis), expected.min(axis)
    chosen = np.take_along_axis(expected, found.argmax(axis, keepdims=True), axis).squeeze(axis)
    return float((best - chosen <= _TIE * (best - least)).mean())


def kaldi(cmvn: Cmvn) -> str:
    """Return the text of an `am.mvn`, as Kaldi writes networks and FunASR reads this one."""
    size = cmvn.shift.size
    parts = []
    for name, values in (("AddShift", cmvn.shift), ("Rescale", cmvn.scale)):
        numbers = " ".join(f"{value:.9g}" for value in values)
        parts.append(f"<{name}> {size} {size}\n<LearnRateCoef> 0 [ {numbers} ]\n")
    return f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n{''.join(parts)}</Nnet>\n"
