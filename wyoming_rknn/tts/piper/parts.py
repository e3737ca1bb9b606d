"""The parts of a voice: split on first use by a child process, then taken from the cache."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import wyoming_rknn
from wyoming_rknn.errors import GraphNotSplittable, ModelError, ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.runtime.cancellation import Cancellable
from wyoming_rknn.tts.piper import cache

Source: TypeAlias = Path | bytes
"""An ONNX file, or its content where it could not be stored."""

CHILD_TIMEOUT_S = 120.0

_CHILD = "wyoming_rknn.tts.piper.split"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """A flow or a decoder."""

    graph: Source
    input: str
    """Takes latents: float32 [1, channels, frames]."""
    output: str
    """A flow's: float32 [1, channels, frames]; a decoder's: float32 samples, frames * hop in all."""
    conditions: tuple[str, ...]
    """Further inputs: the encoder's outputs of the same names, unchanged in every window."""
    context_frames: int | None
    """Frames of true context per side of a window; `None` where only the whole sentence will do."""


@dataclass(frozen=True, slots=True)
class VoiceParts:
    """A voice in parts: encoder, perhaps flow, decoder."""

    encoder: Source
    """Takes input, input_lengths, scales and, for several speakers, sid."""
    latents: str
    """The encoder's output that feeds the flow, or the decoder where there is none; unknown, it is empty."""
    flow: Stage | None
    decoder: Stage | None
    """`None` where there is one for the NPU only."""
    hop: int
    """Samples per frame; 0 where the decoder's structure is unknown."""
    channels: int
    """Channels of the latents; 0 where the decoder's structure is unknown."""
    max_diff: float
    """Largest difference found between the samples of the parts, in windows, and of the whole."""


def known_parts(files: Mapping[str, Path], cache_dir: Path) -> VoiceParts | None:
    """Return the parts of a voice, whose files are given by role, or `None` if it has to be split first.

    A converted voice, with a "manifest", is in parts already; of a pair whose decoder is for the NPU only, the encoder
    is used as it is.

    Blocks for a look into the cache, and to read a file that was never seen before. Raises as `load_parts` does.
    """
    if "manifest" in files:
        return _converted(files)
    if "decoder" not in files and "graph" not in files:
        return VoiceParts(files["encoder"], "", None, None, 0, 0, 0.0)
    sources, entry = _entry(files, cache_dir)
    manifest = cache.read(entry)
    return None if manifest is None else _parts(manifest, sources, entry)


def load_parts(files: Mapping[str, Path], cache_dir: Path, cancellation: Cancellable | None = None) -> VoiceParts:
    """Return the parts of a voice, whose files are given by role: "graph", or "encoder" and "decoder".

    Blocks: the first time for as long as splitting takes, later for a look into the cache. The decoder of a pair that
    cannot run in windows is returned as one that wants whole sentences. Parts that cannot be stored are kept in
    memory. Raises `ModelFileMissing`, `ModelInvalid`, `GraphNotSplittable` for an ordinary voice without a place to
    cut, and `Cancelled`.
    """
    if (known := known_parts(files, cache_dir)) is not None:
        return known
    cancellation = cancellation or Cancellable()
    sources, entry = _entry(files, cache_dir)
    root = entry.parent
    name = _name(sources)
    started = time.monotonic()
    with ExitStack() as stack:
        try:
            folder, obstacle = stack.enter_context(cache.workspace(root)), ""
        except OSError as error:
            folder, obstacle = None, error.strerror or str(error)
        request = {role: str(path.absolute()) for role, path in sources.items()}
        answer, content = _run_child(name, request, folder, cancellation)
        # The child may have read other files than those that name the entry.
        if _digest(sources, root) != entry.name:
            raise ModelInvalid(f"{name} was replaced while it was split; ask for it again")
        manifest = {"format": cache.FORMAT, "program": wyoming_rknn.__version__, "voice": name, "files": {}, **answer}
        obstacle = obstacle or answer.get("obstacle", "")
        # A broken file is looked at anew each time; why it failed may have lain outside.
        if folder is not None and not obstacle and answer.get("error") != ModelInvalid.code:
            try:
                cache.publish(folder, entry, manifest)
            except OSError as error:
                obstacle = error.strerror or str(error)
                content = {file: (folder / file).read_bytes() for file in manifest["files"]}
    if content:
        _LOGGER.warning(
            "%s cannot be written (%s), so the parts of %s are kept in memory and made again at each start; "
            "free some space there or choose another folder with --cache-dir",
            root,
            obstacle,
            name,
        )
    parts = _parts(manifest, sources, entry, content)
    if parts is None:
        raise GraphNotSplittable(f"{name} could not be split: the child process gave no usable answer")
    _LOGGER.info("%s split in %.1f s", name, time.monotonic() - started)
    for role, reason in manifest["description"].get("not_simplified", {}).items():
        _LOGGER.debug("the %s of %s is not simplified: %s", role, name, reason)
    return parts


def split_to(voice: Path, out: Path) -> tuple[Path, ...]:
    """Write an ordinary voice as a pair: `encoder.onnx` with the flow in it, `decoder.onnx`, `config.json`.

    The config is expected beside the voice. Blocks. Returns the files written. Raises `ModelFileMissing`,
    `ModelInvalid`, `GraphNotSplittable`, and `ModelError` if `out` cannot be written.
    """
    if not voice.is_file():
        raise ModelFileMissing(f"{voice} does not exist; name a voice's .onnx file")
    config = voice.with_name(voice.name + ".json")
    VoiceConfig.read(config)
    try:
        with cache.workspace(out) as folder:
            answer, _ = _run_child(
                voice.name, {"graph": str(voice.absolute()), "layout": "pair"}, folder, Cancellable()
            )
            if "error" in answer:
                raise _failure(voice.name, answer)
            if answer.get("obstacle"):
                raise OSError(0, answer["obstacle"])
            (folder / "config.json").write_bytes(config.read_bytes())
            written = tuple(out / file for file in ("encoder.onnx", "decoder.onnx", "config.json"))
            for path in written:
                (folder / path.name).replace(path)
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{out} cannot be written ({error.strerror}); choose another folder") from error
    return written


def _entry(files: Mapping[str, Path], cache_dir: Path) -> tuple[dict[str, Path], Path]:
    """Return the files that are split, and the folder for their parts."""
    sources = {role: files[role] for role in ("graph", "encoder", "decoder") if role in files}
    root = cache_dir / "split"
    return sources, root / _digest(sources, root)


def _digest(sources: Mapping[str, Path], root: Path) -> str:
    try:
        return cache.digest(sources, root)
    except FileNotFoundError as error:
        raise ModelFileMissing(f"{error.filename} does not exist; put the voice's files back") from error
    except OSError as error:
        raise ModelInvalid(
            f"{error.filename} cannot be read ({error.strerror}); check its owner and permissions"
        ) from error


def _parts(
    manifest: Mapping[str, Any], sources: Mapping[str, Path], entry: Path, content: Mapping[str, bytes] | None = None
) -> VoiceParts | None:
    """Build the value from a manifest; `None` if that is not whole. Raises what it records."""
    if "error" in manifest:
        if manifest.get("program") != wyoming_rknn.__version__:
            return None
        raise _failure(_name(sources), manifest)

    def source(role: str) -> Source:
        file = f"{role}.onnx"
        if file not in manifest["files"]:
            return sources[role]
        return content[file] if content else entry / file

    try:
        return _described(manifest["description"], source)
    except (KeyError, TypeError, AttributeError):
        return None


def _described(description: Mapping[str, Any], source: Callable[[str], Source]) -> VoiceParts:
    """Build the value from what a manifest says of the parts. Raises `KeyError`, `TypeError`, `AttributeError`."""
    stages = {
        role: Stage(
            graph=source(role),
            input=inner["input"],
            output=inner["output"],
            conditions=tuple(inner["conditions"]),
            context_frames=inner["context_frames"],
        )
        for role, inner in description["stages"].items()
    }
    return VoiceParts(
        encoder=source("encoder"),
        latents=description["latents"],
        flow=stages.get("flow"),
        decoder=stages["decoder"],
        hop=description["hop"],
        channels=description["channels"],
        max_diff=description["max_diff"],
    )


def _converted(files: Mapping[str, Path]) -> VoiceParts:
    path = files["manifest"]
    try:
        return _described(json.loads(path.read_bytes())["parts"], files.__getitem__)
    except FileNotFoundError:
        raise ModelFileMissing(f"{path} does not exist; convert the voice anew") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid(f"{path} does not describe a converted voice ({error}); convert the voice anew") from error


def _failure(name: str, answer: Mapping[str, Any]) -> ModelError:
    if answer["error"] == GraphNotSplittable.code:
        return GraphNotSplittable(f"{name} cannot be split: {answer['message']}")
    return ModelInvalid(f"{name}: {answer['message']}")


def _run_child(
    name: str, request: Mapping[str, str], folder: Path | None, cancellation: Cancellable
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Split in a child process; returns its answer and the parts that it could not store in `folder`."""
    command = [
        sys.executable,
        "-P",
        "-m",
        _CHILD,
        json.dumps({**request, "store": str(folder.absolute()) if folder else ""}),
        str(os.getpid()),
    ]
    package = str(Path(wyoming_rknn.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
    except OSError as error:
        raise GraphNotSplittable(
            f"{name} could not be split: no process could be started ({error.strerror})"
        ) from error
    with child, cancellation.on_cancel(child.kill):
        try:
            stdout, stderr = child.communicate(timeout=CHILD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise GraphNotSplittable(f"{name} could not be split within {CHILD_TIMEOUT_S:.0f} s") from None
        except BaseException:
            child.kill()
            raise
    cancellation.check()
    header, _, blob = stdout.partition(b"\n")
    if child.returncode != 0 or not header:
        raise GraphNotSplittable(f"{name} could not be split: the child process {_ending(child.returncode, stderr)}")
    answer: dict[str, Any] = json.loads(header)
    content: dict[str, bytes] = {}
    if blob:
        offset = 0
        for file, size in answer["files"].items():
            content[file] = blob[offset : offset + size]
            offset += size
    return answer, content


def _ending(code: int, stderr: bytes) -> str:
    if code < 0:
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"was ended by signal {-code}{memory}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return f"failed with exit code {code}: {lines[-1] if lines else 'no message'}"


def _name(sources: Mapping[str, Path]) -> str:
    first = next(iter(sources.values()))
    return first.name if "graph" in sources else first.absolute().parent.name
