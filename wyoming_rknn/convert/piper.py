"""Piper voices for an NPU: the decoder converted to windows of one width, the rest left to the CPU."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from wyoming_rknn.convert import output, static
from wyoming_rknn.convert.agreement import compare
from wyoming_rknn.convert.report import ConversionReport, ConvertOptions, GraphReport
from wyoming_rknn.convert.toolkit import BuildRequest, Toolkit, check_target
from wyoming_rknn.errors import ConversionError, GraphNotSplittable, ModelFileMissing, UsageError
from wyoming_rknn.models.formats import piper
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.formats.piper_npu import LEAST_USEFUL
from wyoming_rknn.npu.selftest import Golden, golden_path
from wyoming_rknn.runtime import onnx as cpu
from wyoming_rknn.runtime.graph import Tensor
from wyoming_rknn.tts.piper import cache
from wyoming_rknn.tts.piper.parts import Source, Stage, VoiceParts, load_parts
from wyoming_rknn.tts.piper.phonemes import to_ids

LAYOUT = "piper-parts"
_FRAMES = {"rk3566": 32, "rk3568": 32}
_USUAL_FRAMES = 55
"""Window widths that compile without register overflows on every SoC and with every toolkit."""
_TIMEOUT_S = 600.0
_THREADS = 2
_SEED = 20_241
_MOST_PHONEMES = 1024
_MARKS = ("^", "_", "$")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Voice:
    """A voice before its conversion."""

    name: str
    config: VoiceConfig
    config_file: Path
    parts: VoiceParts
    decoder: Stage
    context_frames: int
    """Of the decoder, per side of a window."""
    source: tuple[str, str]
    """File or folder name, and sha256."""


def check_voice(source: Path, target: str, out: Path, options: ConvertOptions) -> None:
    """Raise what `convert_voice` would raise, as far as can be told at once."""
    check_target(target)
    if options.seconds is not None:
        raise UsageError("--seconds is for recognisers; the width of a voice's windows is set with --frames N")
    if options.frames is not None and options.frames < 1:
        raise UsageError(f"--frames {options.frames} must be 1 or more")
    output.check(out)
    VoiceConfig.read(_files(source)[1]["config"])


def convert_voice(
    source: Path, target: str, out: Path, options: ConvertOptions, toolkit: Toolkit, cache_dir: Path
) -> ConversionReport:
    """Convert a voice, `VOICE.onnx` with its config beside it or a folder with its parts, into the folder `out`.

    Blocks for some seconds. Raises `UsageError` for a wrong target, width or `out`; `ModelError` for a voice that is
    missing, broken or has no place to cut; `ConversionError` if the toolkit fails or its result cannot be trusted.
    """
    check_voice(source, target, out, options)
    with output.workspace(out) as folder:
        voice = _read(source, cache_dir)
        frames = _width(voice, target, options)
        golden = _golden(voice, frames, options.floor_db)
        _write_parts(voice, folder)
        graph = _convert_decoder(voice, golden, target, folder, options, toolkit)
        output.write_manifest(
            folder,
            kind="tts",
            layout=LAYOUT,
            name=voice.name,
            source=voice.source,
            target=target,
            toolkit=toolkit.version,
            graphs=(graph,),
            more={"parts": _description(voice.parts, voice.decoder)},
            made_of=source,
        )
    return ConversionReport(out, target, toolkit.version, (graph,))


def _files(source: Path) -> tuple[str, Mapping[str, Path]]:
    """Return the name of a voice and its files by role. Raises `UsageError` or `ModelFileMissing`."""
    if source.is_dir():
        found = piper.detect(source)
        if not found.manifests:
            hint = f"{source} holds no voice; name a VOICE.onnx or a folder with its encoder, decoder and config"
            raise ModelFileMissing(found.problems[0].message if found.problems else hint)
        if len(found.manifests) > 1:
            names = ", ".join(manifest.name for manifest in found.manifests)
            raise UsageError(f"{source} holds {len(found.manifests)} voices ({names}); name the .onnx file of one")
        return found.manifests[0].name, found.manifests[0].files
    if source.suffix == ".onnx":
        return source.stem, {"graph": source, "config": source.with_name(f"{source.name}.json")}
    raise UsageError(f"{source} is no voice; name a VOICE.onnx or a folder with its encoder, decoder and config")


def _read(source: Path, cache_dir: Path) -> _Voice:
    name, files = _files(source)
    config = VoiceConfig.read(files["config"])
    try:
        parts = load_parts(files, cache_dir)
    except GraphNotSplittable as error:
        raise ConversionError(f"{error}; an NPU takes a decoder alone, so leave this voice to the CPU") from error
    if parts.decoder is None or parts.decoder.context_frames is None or not parts.hop:
        raise ConversionError(
            f"{name} has no decoder that can run in windows, which is all that an NPU takes; leave it to the CPU"
        )
    return _Voice(
        name=name,
        config=config,
        config_file=files["config"],
        parts=parts,
        decoder=parts.decoder,
        context_frames=parts.decoder.context_frames,
        source=_origin(source, files, cache_dir),
    )


def _origin(source: Path, files: Mapping[str, Path], cache_dir: Path) -> tuple[str, str]:
    """Return the name and sha256 of what a voice was made from."""
    if "manifest" in files:
        origin = json.loads(files["manifest"].read_bytes())["source"]
        return origin["file"], origin["sha256"]
    graphs = {role: files[role] for role in ("graph", "encoder", "decoder") if role in files}
    return source.absolute().name, cache.digest(graphs, cache_dir / "split")


def _width(voice: _Voice, target: str, options: ConvertOptions) -> int:
    frames = options.frames or _FRAMES.get(target, _USUAL_FRAMES)
    least = 2 * voice.context_frames + 1
    if frames < least:
        chosen = f"--frames {frames} is" if options.frames else f"{frames} frames, usual for {target}, are"
        raise UsageError(
            f"{chosen} too few for {voice.name}, which needs {voice.context_frames} of context on either side of a "
            f"window; set --frames {least} or more"
        )
    used = frames - 2 * voice.context_frames
    if used < LEAST_USEFUL * frames:
        _LOGGER.warning(
            "only %d of %d frames of each window of %s are used, the others are context: the NPU computes %.1f times "
            "what is heard; take more frames with --frames N as long as no register overflows, or leave it to the CPU",
            used,
            frames,
            voice.name,
            frames / used,
        )
    return frames


def _golden(voice: _Voice, frames: int, floor_db: float) -> Golden:
    """Return `frames` frames from the middle of an utterance, and what ONNX Runtime decodes them to."""
    latents, outputs = _utterance(voice, frames)
    begin = (latents.shape[-1] - frames) // 2
    inputs: dict[str, Tensor] = {voice.decoder.input: np.ascontiguousarray(latents[:, :, begin : begin + frames])}
    inputs |= {name: outputs[name] for name in voice.decoder.conditions}
    result = _run(voice.decoder.graph, inputs)[voice.decoder.output]
    if result.size != frames * voice.parts.hop or not np.isfinite(result).all() or not result.any():
        raise ConversionError(
            f"{voice.name} gives no sound for an utterance of random phonemes, so a conversion could not be checked; "
            "leave it to the CPU"
        )
    return Golden(inputs, {voice.decoder.output: result}, floor_db)


def _utterance(voice: _Voice, frames: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return latents before the decoder, at least `frames` of them, and all that the encoder gave with them.

    The phonemes are random but always the same, and so is the result, since nothing is varied.
    """
    parts, config = voice.parts, voice.config
    encoder = cpu.load(parts.encoder, threads=_THREADS)
    wanted = {spec.name for spec in encoder.inputs}
    symbols = sorted(set(config.phoneme_id_map) - set(_MARKS))
    random = np.random.default_rng(_SEED)
    count = max(16, frames // 2)
    while count <= _MOST_PHONEMES:
        ids, _ = to_ids([symbols[index] for index in random.integers(len(symbols), size=count)], config.phoneme_id_map)
        feeds: dict[str, Tensor] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([0.0, config.length_scale, 0.0], np.float32),
            "sid": np.array([config.default_speaker_id], np.int64),
        }
        outputs = encoder.run({name: value for name, value in feeds.items() if name in wanted})
        latents = outputs[parts.latents]
        # The ends of an utterance are silent.
        if latents.shape[-1] >= 2 * frames:
            break
        count *= 2
    else:
        raise ConversionError(f"{voice.name} gives no {frames} frames for {count // 2} phonemes; leave it to the CPU")
    if parts.flow is not None:
        conditions = {name: outputs[name] for name in parts.flow.conditions}
        latents = _run(parts.flow.graph, {parts.flow.input: latents, **conditions})[parts.flow.output]
    return latents, outputs


def _run(graph: Source, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return cpu.load(graph, threads=_THREADS).run(feeds)


def _convert_decoder(
    voice: _Voice, golden: Golden, target: str, folder: Path, options: ConvertOptions, toolkit: Toolkit
) -> GraphReport:
    name = f"{voice.name} decoder"
    fixed = static.fix(
        static.read(voice.decoder.graph),
        {key: value.shape for key, value in golden.inputs.items()},
        {key: value.shape for key, value in golden.outputs.items()},
    )
    frames = golden.inputs[voice.decoder.input].shape[-1]
    graph = folder / ".fixed.onnx"
    onnx.save(fixed, graph)
    built = toolkit.build(
        BuildRequest(
            name=name,
            graph=graph,
            target=target,
            inputs=golden.inputs,
            out=folder / "decoder.rknn",
            custom_string=_custom_string(voice, frames),
            timeout_s=options.timeout_s or _TIMEOUT_S,
            allow_regtask=options.allow_regtask,
            smaller="take fewer frames with --frames N",
        )
    )
    graph.unlink()
    agreement = compare(f"{name} for {target}", golden, built.simulated)
    beside = golden_path(built.rknn)
    golden.write(beside)
    return GraphReport.of(built, agreement, beside, frames, voice.context_frames)


def _custom_string(voice: _Voice, frames: int) -> str:
    facts = {
        "frames": frames,
        "hop": voice.parts.hop,
        "context": voice.context_frames,
        "channels": voice.parts.channels,
        "rate_hz": voice.config.rate_hz,
        "source": voice.source[1][:16],
    }
    return ";".join(f"{key}={value}" for key, value in facts.items())


def _write_parts(voice: _Voice, folder: Path) -> None:
    stages = {"encoder": voice.parts.encoder, "decoder": voice.decoder.graph}
    if voice.parts.flow is not None:
        stages["flow"] = voice.parts.flow.graph
    for role, graph in stages.items():
        static.write_whole(graph, folder / f"{role}.onnx")
    (folder / "config.json").write_bytes(voice.config_file.read_bytes())


def _description(parts: VoiceParts, decoder: Stage) -> dict[str, object]:
    """Return what `load_parts` reads back."""
    stages = {"decoder": decoder, **({"flow": parts.flow} if parts.flow else {})}
    return {
        "latents": parts.latents,
        "hop": parts.hop,
        "channels": parts.channels,
        "max_diff": parts.max_diff,
        "stages": {
            role: {
                "input": stage.input,
                "output": stage.output,
                "conditions": list(stage.conditions),
                "context_frames": stage.context_frames,
            }
            for role, stage in stages.items()
        },
    }
