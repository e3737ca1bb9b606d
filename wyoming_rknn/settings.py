"""Settings: one tree, merged as command line > environment > file > default.

Every field carries its help text; the command line, the environment variables and `docs/configuration.md` follow from
the fields, so a setting is written down once. Unknown keys are errors with a suggestion.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args, get_origin

from wyoming_rknn.errors import UsageError, did_you_mean

ENV_PREFIX = "WYOMING_RKNN_"
ENV_FILE_SUFFIX = "_FILE"
DEFAULT_URI = "tcp://0.0.0.0:10800"
ADDON_OPTIONS = Path("/data/options.json")
"""Where Home Assistant's Supervisor puts an add-on's options; read when no file is named."""


def _setting(help_text: str, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for a field of any type
    # `addon`: what the setting is called among the options of the add-on; script/addon writes them.
    metadata: dict[str, Any] = {"help": help_text}
    metadata |= {key: kwargs.pop(key) for key in ("metavar", "choices", "addon") if key in kwargs}
    return field(metadata=metadata, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set."""

    uri: tuple[str, ...] = _setting(
        f"serve everything here; repeatable (default {DEFAULT_URI})", metavar="URI", default=()
    )
    tts_uri: tuple[str, ...] = _setting("serve only text-to-speech here; repeatable", metavar="URI", default=())
    asr_uri: tuple[str, ...] = _setting(
        "serve only speech-to-text here; repeatable: the first port prefers the first program, the second the next one,"
        " unless the URI ends in ?program=NAME",
        metavar="URI",
        default=(),
    )
    data_dir: tuple[Path, ...] = _setting(
        "folder with models; repeatable, the first that has a name wins (default $XDG_DATA_HOME/wyoming-rknn, in a "
        "container /data, and /share/wyoming-rknn)",
        metavar="DIR",
        default=(),
    )
    cache_dir: Path | None = _setting(
        "folder for what is derived from models (default $XDG_CACHE_HOME/wyoming-rknn, in a container /data/cache)",
        metavar="DIR",
        default=None,
    )

    voice: str | None = _setting(
        "voice for requests that name none (default: the first one that speaks the language)",
        metavar="NAME",
        addon="Voice",
        default=None,
    )
    tts_engine: str | None = _setting(
        "text-to-speech program listed first (default piper)", metavar="NAME", default=None
    )
    language: str | None = _setting(
        "language of requests that name none (default: speaks en-US, finds out what it hears)",
        metavar="TAG",
        addon="Language",
        default=None,
    )

    length_scale: float = _setting("duration of speech: 2 is half as fast", metavar="X", addon="Duration", default=1.0)
    noise_scale: float | None = _setting("variation of sound, 0 to 1 (default: the voice's)", metavar="X", default=None)
    noise_w: float | None = _setting("variation of rhythm, 0 to 1 (default: the voice's)", metavar="X", default=None)
    volume: float = _setting("fixed gain, limited softly below full scale", metavar="X", addon="Volume", default=1.0)
    sentence_silence: float = _setting(
        "seconds of silence between sentences", metavar="SECONDS", addon="Pause between sentences", default=0.2
    )
    first_window: int = _setting("decoder frames in the first sound of a reply, 8 to 64", metavar="FRAMES", default=16)
    window_growth: float = _setting("factor from one decoder window to the next, 1 to 4", metavar="X", default=2.0)
    max_window: int = _setting("most decoder frames in one window, 16 to 1024", metavar="FRAMES", default=192)
    fallback_voice: bool = _setting(
        "speak with the default voice when a voice is unknown", addon="Substitute unknown voices", default=False
    )
    auto_download: bool = _setting(
        "offer the catalogue's voices as if they were installed; the first request for one fetches it, while an"
        " installed voice of its language answers",
        addon="Fetch voices on demand",
        default=False,
    )
    auto_download_language: tuple[str, ...] = _setting(
        "language of which --auto-download offers voices, such as de or en-GB; repeatable (default: --language, else"
        " en)",
        metavar="TAG",
        addon="Languages to fetch voices of",
        default=(),
    )

    asr_engine: str | None = _setting(
        "speech-to-text program listed first (default sensevoice)", metavar="NAME", addon="Recogniser", default=None
    )
    asr_model: str | None = _setting(
        "speech-to-text model, by name, file or folder (default: the quickest one found)",
        metavar="NAME|PATH",
        addon="Recogniser's model",
        default=None,
    )
    no_itn: bool = _setting(
        "write numbers as words, without punctuation and capitals", addon="Numbers as words", default=False
    )
    no_full_stop: bool = _setting(
        "leave out a full stop at the end of a transcript", addon="No full stop at the end", default=False
    )
    partial_interval: float = _setting(
        "seconds between partial transcripts, at least; 0 for none", metavar="SECONDS", default=0.5
    )
    vad_threshold: float = _setting("how sure it must be that someone speaks, 0 to 1", metavar="X", default=0.5)
    vad_endpointing: float = _setting(
        "send the transcript after so much silence instead of waiting for audio-stop; 0 to wait (needs Home Assistant"
        " 2026.10)",
        metavar="SECONDS",
        default=0.0,
    )
    max_utterance: float = _setting(
        "longest utterance in seconds; what follows is left out", metavar="SECONDS", default=300.0
    )

    runtime: str = _setting(
        "what computes graphs: auto takes the NPU through librknnrt, or through rknn-toolkit-lite2, where it can; what"
        " is not made for it is computed by ONNX Runtime on the CPU",
        choices=("auto", "onnx", "rknn", "rknn-lite"),
        addon="Runtime",
        default="auto",
    )
    soc: str | None = _setting(
        "the board's system on chip, such as rk3588 (default: as the device tree says)",
        metavar="NAME",
        addon="System on chip",
        default=None,
    )
    rknn_library: Path | None = _setting(
        "librknnrt.so to use (default: where the system keeps it)", metavar="FILE", addon="NPU library", default=None
    )
    rkllm_library: Path | None = _setting(
        "librkllmrt.so to use for language models (default: where the system keeps it)", metavar="FILE", default=None
    )
    rkllm_version: str | None = _setting(
        "version of librkllmrt, such as 1.2.3 (default: as its file says)", metavar="VERSION", default=None
    )
    threads: int = _setting("CPU threads for a computation (0: all fast cores, at most 4)", metavar="N", default=0)
    memory_budget: int | None = _setting(
        "memory that loaded models may take together, about; the least recently used give way to others (0: no limit;"
        " default: three quarters of the machine's or the container's)",
        metavar="MB",
        addon="Memory for models",
        default=None,
    )
    idle_unload: float = _setting(
        "seconds after which a model that nobody used is unloaded; 0 for never",
        metavar="SECONDS",
        addon="Unload unused models",
        default=0.0,
    )
    preload: tuple[str, ...] = _setting(
        "what is loaded at the start: default for what speaks and listens when nothing is named, all, none, or the name"
        " of a voice or model; repeatable (default: default)",
        metavar="default|all|none|NAME",
        addon="Models to load at the start",
        default=(),
    )
    cpu_affinity: str = _setting(
        "CPU cores that compute: auto for the fast ones, none for all, or a list such as 4-7 or 4,5",
        metavar="auto|none|LIST",
        default="auto",
    )

    zeroconf: str | None = _setting("announce the service by zeroconf under NAME", metavar="NAME", default=None)
    no_zeroconf: bool = _setting("announce nothing", default=False)
    max_connections: int = _setting("connections at once", metavar="N", default=256)
    max_requests: int = _setting("requests being worked on at once", metavar="N", default=32)
    idle_timeout: float = _setting("seconds a silent connection is kept", metavar="SECONDS", default=600.0)
    frame_timeout: float = _setting("seconds within which a begun event must arrive", metavar="SECONDS", default=60.0)
    write_timeout: float = _setting("seconds a client may refuse to read", metavar="SECONDS", default=30.0)
    max_header: int = _setting("longest header line in bytes", metavar="BYTES", default=65536)
    max_payload: int = _setting("largest data block or payload in bytes", metavar="BYTES", default=1048576)

    metrics_uri: str | None = _setting(
        "serve numbers for Prometheus here by HTTP, at /metrics, such as tcp://127.0.0.1:9110 (default: nowhere)",
        metavar="URI",
        default=None,
    )
    log_level: str = _setting("log detail", choices=("debug", "info", "warning", "error"), addon="Log", default="info")
    log_format: str = _setting("log layout", choices=("text", "json"), default="text")

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{option(name)} must be between {low:.9g} and {high:.9g}, not {value:.9g}")

        if "none" in self.preload and len(self.preload) > 1:
            raise UsageError("--preload none excludes everything else; leave one of them out")

    @property
    def data_dirs(self) -> tuple[Path, ...]:
        """Return the folders in which models are looked for."""
        return self.data_dir or default_data_dirs(os.environ)

    @property
    def cache(self) -> Path:
        """Return the folder for what is derived from models."""
        return self.cache_dir or default_cache_dir(os.environ)

    @classmethod
    def merge(cls, *layers: Mapping[str, Any]) -> Self:
        """Combine layers, the first one that has a key wins. Values are converted to the fields' types.

        Raises `UsageError` for unknown keys and values that do not fit.
        """
        known = {spec.name: spec for spec in fields(cls)}
        merged: dict[str, Any] = {}
        for layer in reversed(layers):
            for key, value in layer.items():
                name = key.replace("-", "_")
                if name not in known:
                    raise UsageError(f"unknown setting {key!r}{did_you_mean(name, known)}")
                merged[name] = convert(known[name], value)
        return cls(**merged)


_RANGES = (
    ("length_scale", 0.1, 10.0),
    ("noise_scale", 0.0, 2.0),
    ("noise_w", 0.0, 2.0),
    ("volume", 0.0, 10.0),
    ("sentence_silence", 0.0, 10.0),
    ("first_window", 8, 64),
    ("window_growth", 1.0, 4.0),
    ("max_window", 16, 1024),
    ("partial_interval", 0.0, 60.0),
    ("vad_threshold", 0.05, 0.95),
    ("vad_endpointing", 0.0, 10.0),
    ("max_utterance", 1.0, 3600.0),
    ("threads", 0, 256),
    ("memory_budget", 0, 1 << 20),
    ("idle_unload", 0.0, 604800.0),
    ("max_connections", 1, 65536),
    ("max_requests", 1, 4096),
    ("idle_timeout", 0.1, 86400.0),
    ("frame_timeout", 0.1, 86400.0),
    ("write_timeout", 0.1, 86400.0),
    ("max_header", 1024, 1 << 24),
    ("max_payload", 1024, 1 << 28),
)


def option(name: str) -> str:
    """Return the command line option of a field."""
    return "--" + name.replace("_", "-")


def convert(spec: "Field[Any]", value: object) -> object:
    """Convert what was written on a command line, in a variable or in a file to the field's type."""
    kind, optional = _kind(spec)
    try:
        if is_repeatable(spec):
            if value is None or value == "":
                return spec.default
            parts = value.split() if isinstance(value, str) else value
            if not isinstance(parts, list | tuple) or not all(isinstance(part, str | Path) for part in parts):
                raise ValueError
            return tuple(Path(part).expanduser() if kind is Path else str(part) for part in parts)
        if value is None or value == "":
            return value if value is None and optional else spec.default
        if kind is bool:
            return _boolean(value)
        if isinstance(value, bool | list | tuple | dict):
            raise ValueError
        if kind is Path:
            return Path(str(value)).expanduser()
        converted = kind(str(value))
    except (ValueError, RuntimeError):  # the latter for the home of a user who does not exist
        raise UsageError(f"{option(spec.name)} cannot be {value!r}: {spec.metadata['help']}") from None
    choices = spec.metadata.get("choices")
    if choices and converted not in choices:
        raise UsageError(f"{option(spec.name)} must be one of {', '.join(choices)}, not {value!r}")
    return converted


def is_repeatable(spec: "Field[Any]") -> bool:
    """Tell whether a setting takes several values."""
    return get_origin(spec.type) is tuple


def _kind(spec: "Field[Any]") -> tuple[Callable[[str], Any], bool]:
    """Return the type of a setting's value (of one of them, for several), and whether it may be unset."""
    parts = [part for part in get_args(spec.type) if part not in (NoneType, Ellipsis)]
    return (parts[0] if parts else spec.type), NoneType in get_args(spec.type)  # type: ignore[return-value]


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read `WYOMING_RKNN_<OPTION>`, or the file that `WYOMING_RKNN_<OPTION>_FILE` names.

    An empty variable counts as unset: compose files pass on what they were not given. Raises `UsageError` for a
    variable that belongs to no setting, a setting given both ways, and a file that cannot be read.
    """
    known = {spec.name for spec in fields(Settings)}
    found: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENV_PREFIX) or not value:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name in RESERVED_VARIABLES:
            continue
        if name not in known and name.removesuffix(ENV_FILE_SUFFIX.lower()) in known:
            name = name.removesuffix(ENV_FILE_SUFFIX.lower())
            value = _read(Path(value), variable).strip()
        elif name not in known:
            raise UsageError(f"unknown variable {variable}{did_you_mean(name, known)}")
        if name in found:
            both = f"{ENV_PREFIX}{name.upper()}"
            raise UsageError(f"both {both} and {both}{ENV_FILE_SUFFIX} are set; remove one of them")
        found[name] = value
    return found


RESERVED_VARIABLES = frozenset({"config", "test_data", "test_double", "require_toolkit"})
"""Variables with the prefix that are no settings: the file itself, and what the tests go by."""


def from_file(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML mapping. Raises `UsageError` if it cannot be read or is something else."""
    # Only who has a settings file pays for loading the library.
    import yaml

    text = _read(path, "--config")
    try:
        # JSON is parsed apart: YAML 1.1 reads its numbers and escapes differently.
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not valid JSON or YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path} must hold settings as `name: value`")
    return content


def default_data_dirs(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where models are looked for when nothing is set; only folders that exist, but always the user's own."""
    home = Path(environment.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser())
    system = [Path("/share/wyoming-rknn")]
    if in_container(environment):
        system.insert(0, Path("/data"))
    return (home / "wyoming-rknn", *(folder for folder in system if folder.is_dir()))


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """Return where derived files are kept when nothing is set."""
    if in_container(environment):
        return Path("/data/cache")
    return Path(environment.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wyoming-rknn"


def in_container(environment: Mapping[str, str]) -> bool:
    """Tell whether this is an add-on or a container with a volume at /data."""
    marked = "SUPERVISOR_TOKEN" in environment or Path("/.dockerenv").exists() or "container" in environment
    return marked and os.access("/data", os.W_OK)


def each() -> Iterator["Field[Any]"]:
    """Yield every setting in the order of the documentation."""
    yield from fields(Settings)


def describe_default(spec: "Field[Any]") -> str:
    """Return the default as the documentation shows it."""
    if spec.default in (None, ()):
        return ""
    return str(spec.default).lower() if isinstance(spec.default, bool) else str(spec.default)


def _boolean(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if (word := str(value).strip().lower()) not in words:
        raise ValueError
    return words[word]


def _read(path: Path, wanted_by: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{wanted_by}: cannot read {path}: {reason}") from None
