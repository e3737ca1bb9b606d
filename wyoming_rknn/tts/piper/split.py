"""Split a voice; run as a child process: `python -m wyoming_rknn.tts.piper.split REQUEST`.

The server never loads the `onnx` package nor the graphs that are only compared, so its memory does not grow. REQUEST is
a JSON object (`graph`, or `encoder` and `decoder`; `store`: folder for the parts; `layout`: "parts" or "pair"). The
answer on stdout is one line of JSON, followed by the parts themselves if they could not be stored.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import onnx

from wyoming_rknn.errors import EngineError, GraphNotSplittable, ModelError, ModelInvalid
from wyoming_rknn.runtime.graph import Graph
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper.cut import Cut, cut_for_pair, cut_pair, cut_voice, uncut_pair
from wyoming_rknn.tts.piper.lean import lean
from wyoming_rknn.tts.piper.surgery import Wiring
from wyoming_rknn.tts.piper.verify import LoadedPart, Vocabulary, compare_pair, compare_voice

Answer: TypeAlias = tuple[dict[str, Any], dict[str, bytes]]
"""Description of the parts, and the parts themselves by file name."""

_PR_SET_PDEATHSIG = 1
_NICENESS = 5
_UNKNOWN_VOCABULARY = 16


def split_voice(path: Path) -> Answer:
    """Split an ordinary voice into encoder, flow and decoder, simplify them and compare them with the whole.

    Raises `ModelInvalid`, `GraphNotSplittable`.
    """
    model = read(path)
    vocabulary = _vocabulary(model)
    cut = cut_voice(model)
    # What remains are the serialised parts: a small board has no room for the weights thrice.
    del model
    cut, kept = lean(cut, vocabulary)
    files = _serialised(cut)
    cut = _without_weights(cut)
    with _loaded(path, files["encoder.onnx"]) as (whole, encoder), _loaded_parts(cut, files) as parts:
        difference = compare_voice(whole, encoder, cut.latents, parts, vocabulary)
    return {**_description(cut, difference), "not_simplified": kept}, files


def split_pair(encoder_path: Path, decoder_path: Path) -> Answer:
    """Split the decoder of a pair after its flow, if that is inside, and compare; the encoder stays as it is.

    A decoder that cannot run in windows is described as one that wants whole sentences, and gives no parts. Raises
    `ModelInvalid`.
    """
    encoder_model, decoder_model = read(encoder_path), read(decoder_path)
    vocabulary = _vocabulary(encoder_model)
    try:
        cut = cut_pair(encoder_model, decoder_model)
        files = _serialised(cut)
        with _loaded(decoder_path, encoder_path) as (whole, encoder), _loaded_parts(cut, files) as parts:
            difference = compare_pair(whole, encoder, cut.latents, parts, vocabulary)
    except (GraphNotSplittable, EngineError) as error:
        return _description(uncut_pair(encoder_model, decoder_model), 0.0, str(error)), {}
    return _description(cut, difference), files


def split_into_pair(path: Path) -> Answer:
    """Split an ordinary voice into the layout of a published pair, cut after the flow, and compare it with the whole.

    Raises `ModelInvalid`, `GraphNotSplittable`.
    """
    model = read(path)
    encoder_model, decoder_model = cut_for_pair(model)
    cut = uncut_pair(encoder_model, decoder_model)
    files = {"encoder.onnx": encoder_model.SerializeToString(), "decoder.onnx": decoder_model.SerializeToString()}
    with _loaded(path, files["encoder.onnx"]) as (whole, encoder), _loaded_parts(cut, files) as parts:
        difference = compare_voice(whole, encoder, cut.latents, parts, _vocabulary(model))
    return _description(cut, difference), files


def read(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file. Raises `ModelInvalid` if it is none."""
    try:
        model = onnx.load(path)
    except Exception as error:
        raise ModelInvalid(f"this is no ONNX model ({_first_line(error)}); download it again") from error
    if not model.graph.node or not model.graph.output:
        raise ModelInvalid("this is no ONNX model (it holds no graph); download it again")
    return model


def _serialised(cut: Cut) -> dict[str, bytes]:
    parts = {"flow.onnx": cut.flow, "decoder.onnx": cut.decoder}
    files = {name: part.model.SerializeToString() for name, part in parts.items() if part is not None}
    if cut.encoder is not None:
        files["encoder.onnx"] = cut.encoder.SerializeToString()
    return files


def _without_weights(cut: Cut) -> Cut:
    flow = None if cut.flow is None else replace(cut.flow, model=onnx.ModelProto())
    return replace(cut, encoder=None, flow=flow, decoder=replace(cut.decoder, model=onnx.ModelProto()))


def _description(cut: Cut, difference: float, reason: str = "") -> dict[str, Any]:
    stages = {"flow": cut.flow, "decoder": cut.decoder}
    return {
        "reason": reason,
        "latents": cut.latents,
        "hop": cut.hop,
        "channels": cut.channels,
        "max_diff": difference,
        "stages": {
            name: {
                "input": part.input,
                "output": part.output,
                "conditions": list(part.conditions),
                "context_frames": part.context_frames,
            }
            for name, part in stages.items()
            if part is not None
        },
    }


def _vocabulary(model: onnx.ModelProto) -> Vocabulary:
    """Return the rows of the tables in which phonemes and speakers are looked up."""
    wiring = Wiring(model)
    rows: dict[str, int] = {}
    for node in wiring.nodes:
        if node.op_type == "Gather" and node.input[1] in ("input", "sid"):
            shape = wiring.shape(node.input[0])
            if shape is not None and len(shape) == 2:
                rows.setdefault(node.input[1], shape[0])
    return Vocabulary(rows.get("input", _UNKNOWN_VOCABULARY), rows.get("sid", 1))


@contextlib.contextmanager
def _loaded(*models: Path | bytes) -> Iterator[tuple[Graph, ...]]:
    threads = min(4, len(os.sched_getaffinity(0)))
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(contextlib.closing(load(model, threads=threads))) for model in models)


@contextlib.contextmanager
def _loaded_parts(cut: Cut, files: Mapping[str, bytes]) -> Iterator[tuple[LoadedPart, ...]]:
    parts = {"flow.onnx": (cut.flow, 1), "decoder.onnx": (cut.decoder, cut.hop)}
    present = [(part, rate, files[name]) for name, (part, rate) in parts.items() if part is not None]
    with _loaded(*(content for _, _, content in present)) as graphs:
        yield tuple(
            LoadedPart(graph, part.input, part.output, part.conditions, part.context_frames, rate)
            for graph, (part, rate, _) in zip(graphs, present, strict=True)
        )


def _store(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files so that they outlive a power cut that follows at once. Raises `OSError`, leaving none behind."""
    try:
        for name, content in files.items():
            with (folder / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        for name in files:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        raise


def _answer(request: Mapping[str, Any]) -> Answer:
    if "graph" not in request:
        return split_pair(Path(request["encoder"]), Path(request["decoder"]))
    split = split_into_pair if request.get("layout") == "pair" else split_voice
    return split(Path(request["graph"]))


def _follow_parent(parent: int) -> None:
    """End with the server, and let the speech of other voices go first."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the signal was asked for.
        sys.exit(1)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)


def main(arguments: Sequence[str], out: BinaryIO) -> int:
    """Serve one request and write the answer to `out`; returns the exit code."""
    request = json.loads(arguments[0])
    try:
        description, files = _answer(request)
    except ModelError as error:
        out.write(json.dumps({"error": error.code, "message": str(error)}).encode() + b"\n")
        return 0
    answer: dict[str, Any] = {"description": description, "files": {name: len(part) for name, part in files.items()}}
    stored = False
    if request.get("store"):
        try:
            _store(Path(request["store"]), files)
            stored = True
        except OSError as error:
            answer["obstacle"] = error.strerror or str(error)
    out.write(json.dumps(answer).encode() + b"\n")
    if not stored:
        for content in files.values():
            out.write(content)
    out.flush()
    return 0


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


if __name__ == "__main__":
    _follow_parent(int(sys.argv[2]))
    sys.exit(main(sys.argv[1:], sys.stdout.buffer))
