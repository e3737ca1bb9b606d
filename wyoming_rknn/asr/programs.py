"""The speech-to-text programs of this installation, and which one hears a request."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wyoming_rknn import plugins
from wyoming_rknn.asr.engine import AsrEngine, AsrModel, AsrSession, Bias
from wyoming_rknn.errors import ModelNotFound, SpeechServerError, UsageError, did_you_mean
from wyoming_rknn.names import folded
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)

ENTRY_POINTS = "wyoming_rknn.asr"
BUILT_IN = "pocketsphinx"
"""The program that needs no model; comes last, whatever else there is."""
_BUILT_IN_ORDER = ("sensevoice", "qwen3-asr")
_CANTONESE = {"zh-hk", "zh-mo", "zh-yue"}
_ALIASES = {"cmn": "zh", "jp": "ja", "kr": "ko", "cn": "zh", "tl": "fil", "in": "id"}


@dataclass(frozen=True, slots=True)
class AsrPort:
    """Which program a port prefers: one by name, or by its place in the list."""

    program: str | None = None
    place: int = 0


@dataclass(frozen=True, slots=True)
class AsrChoice:
    """What hears a request."""

    engine: AsrEngine
    model: AsrModel
    language: str | None
    """One of the model's tags; `None` leaves it to the model."""

    def open(self, bias: Bias) -> AsrSession:
        """Begin an utterance. Blocks while the model is loaded. Raises `ModelError`, `ModelNotFound`."""
        return self.engine.open(self.model.name, self.language, bias)


class AsrPrograms:
    """Engines in the order in which they are offered."""

    def __init__(self, engines: Sequence[AsrEngine], settings: Settings) -> None:
        # sorted() is stable: the others keep their order.
        self._engines = tuple(sorted(engines, key=lambda engine: engine.name == BUILT_IN))
        self._settings = settings
        self._missed_default = False
        if settings.asr_engine and settings.asr_engine not in self.names:
            raise UsageError(
                f"--asr-engine {settings.asr_engine!r} is not installed{did_you_mean(settings.asr_engine, self.names)}"
            )

    def offered(self, port: AsrPort | None = None) -> list[tuple[AsrEngine, Sequence[AsrModel]]]:
        """Return the engines that have models now, a port's default first. Looks at the disk.

        The default is the engine that --asr-engine names, then the one with the model that --asr-model names.
        """
        port = port or AsrPort()
        usable = [(engine, models) for engine in self._engines if (models := engine.models())]
        usable.sort(key=lambda pair: (pair[0].name != self._settings.asr_engine, not pair[1][0].chosen))
        first = next((pair for pair in usable if pair[0].name == port.program), None)
        if first is None and port.program is None and port.place < len(usable):
            first = usable[port.place]
        return usable if first is None else [first, *(pair for pair in usable if pair is not first)]

    @property
    def names(self) -> list[str]:
        """Return what the programs are called, those without models among them."""
        return [engine.name for engine in self._engines]

    def choose(self, port: AsrPort | None = None, model: str | None = None, language: str | None = None) -> AsrChoice:
        """Return what hears a request that may name a model and a language.

        An unknown name must not cost what was said: the default model hears it, with a warning. Raises
        `ModelNotFound` when there is no model at all.
        """
        offered = self.offered(port)
        if not offered:
            raise ModelNotFound(self._settings.asr_model, ())
        engine, found = offered[0][0], offered[0][1][0]
        if model:
            # A program's name stands for its default model.
            known = {folded(each.name): (engine, each) for engine, models in reversed(offered) for each in models}
            known |= {folded(each.name): (each, models[0]) for each, models in reversed(offered)}
            if folded(model) in known:
                engine, found = known[folded(model)]
            else:
                close = did_you_mean(model, (each.name for _, each in known.values()))
                reason = self.problem(model) or f"model {model!r} is not installed{close}"
                _LOGGER.warning("%s; %s hears instead", reason, found.name)
        self._warn_of_missed_default(offered)
        return AsrChoice(engine, found, match_language(language or self._settings.language, found.languages))

    def problem(self, model: str) -> SpeechServerError | None:
        """Return what is wrong with a model that is there but cannot be used; looks at the disk."""
        for engine in self._engines:
            problems = engine.problems() if isinstance(engine, plugins.Diagnosing) else {}
            for name, error in problems.items():
                if folded(name) == folded(model):
                    return error
        return None

    def close(self) -> None:
        """Close all engines."""
        for engine in self._engines:
            engine.close()

    def _warn_of_missed_default(self, offered: Sequence[tuple[AsrEngine, Sequence[AsrModel]]]) -> None:
        wanted = self._settings.asr_model
        if not wanted or self._missed_default or any(models[0].chosen for _, models in offered):
            return
        self._missed_default = True
        close = did_you_mean(wanted, (model.name for _, models in offered for model in models))
        reason = self.problem(wanted) or f"there is none of that name{close}"
        _LOGGER.warning("--asr-model %r cannot be used: %s; another one listens", wanted, reason)


def load(settings: Settings, runtimes: Runtimes) -> AsrPrograms:
    """Create every installed engine; one that fails to import is left out with one warning."""
    engines = plugins.create(ENTRY_POINTS, _BUILT_IN_ORDER, "speech-to-text", settings, runtimes)
    return AsrPrograms(list(engines), settings)


def match_language(wanted: str | None, known: Sequence[str]) -> str | None:
    """Return the tag out of `known` that `wanted`, in any spelling, means; `None` if there is none.

    From the exact tag to the bare language; Cantonese is a language of its own, and what Hong Kong and Macau speak.
    """
    if not wanted:
        return None
    tags = {folded(tag): tag for tag in known}
    return next((tags[reading] for reading in _readings(folded(wanted)) if reading in tags), None)


def _readings(tag: str) -> Iterator[str]:
    yield tag
    bare, _, region = tag.partition("-")
    if bare == "zh" and {f"zh-{part}" for part in region.split("-")} & _CANTONESE:
        yield "yue"
    yield bare
    if bare in _ALIASES:
        yield _ALIASES[bare]
