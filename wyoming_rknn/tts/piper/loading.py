"""From a voice's files to what speaks: its parts once it is cut, until then its whole graph."""

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from wyoming_rknn.errors import Cancelled, GraphNotSplittable, ModelError, ModelInvalid
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.runtime.cancellation import Cancellable
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.piper.npu import open_stage
from wyoming_rknn.tts.piper.parts import VoiceParts, known_parts, load_parts
from wyoming_rknn.tts.piper.voice import CutVoice, PiperVoice, WholeVoice

_FAREWELL_S = 5.0
"""Longest wait for the thread's end: loading parts cannot be interrupted."""

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True, weakref_slot=True)
class LoadedVoice:
    """A voice in memory."""

    name: str
    config: VoiceConfig
    voice: PiperVoice
    """What speaks; replaced once, when a voice that was whole is cut. A reply goes on with what it began with."""
    settled: threading.Event = field(default_factory=threading.Event)
    """Set when `voice` will not be replaced any more."""
    reported: set[str] = field(default_factory=set)
    """Phonemes that the voice lacks and that were logged already."""


@dataclass(frozen=True, slots=True)
class _Order:
    """A voice that is to be cut, as long as somebody has it."""

    manifest: Manifest
    loaded: "weakref.ref[LoadedVoice]"
    state: tuple[int, ...]
    """The graph file's, see `_state`."""

    @property
    def has_changed(self) -> bool:
        """Tell whether the file is another one now, or gone; then the voice is of no more than past interest."""
        return _state(self.manifest) != self.state

    def settle(self) -> None:
        if (loaded := self.loaded()) is not None:
            loaded.settled.set()


class VoiceLoader:
    """Load voices, and cut those that are not cut yet: one at a time, in a thread that is there while there are any.

    A process that ends, or `close`, gives up what is being cut and leaves nothing of it in the cache. So `say` speaks
    at once with a voice that was just copied, and leaves cutting it to a process that lives longer unless the text
    does; `models add` has cut it before.
    """

    def __init__(self, settings: Settings, runtimes: Runtimes, size_of: Callable[[Manifest], int]) -> None:
        """`size_of` tells how many bytes a voice takes."""
        self._settings = settings
        self._runtimes = runtimes
        self._size_of = size_of
        self._guard = threading.Lock()
        self._orders: deque[_Order] = deque()
        """The first is under way."""
        self._thread: threading.Thread | None = None
        self._closing = Cancellable()

    def open(self, manifest: Manifest) -> LoadedVoice:
        """Load a voice. Blocks. Raises `ModelError`, `Cancelled`.

        One of a single graph that is not cut yet is loaded whole, and cut afterwards; what cannot be loaded whole, as a
        pair, is cut first. A graph that cannot be cut, or that is of no use when it is, stays whole.
        """
        config = VoiceConfig.read(manifest.files["config"])
        state = _state(manifest)
        whole: PiperVoice | None = None
        try:
            parts = known_parts(manifest.files, self._settings.cache)
            if parts is None and (whole := self._whole(manifest, config)) is None:
                parts = load_parts(manifest.files, self._settings.cache, self._closing)
            if parts is not None:
                return _settled(LoadedVoice(manifest.name, config, self._in_parts(manifest, config, parts)))
        except ModelError as error:
            if (whole := self._whole(manifest, config)) is None:
                raise
            _tell(manifest, error)
            return _settled(LoadedVoice(manifest.name, config, whole))
        assert whole is not None
        loaded = LoadedVoice(manifest.name, config, whole)
        self._begin(_Order(manifest, weakref.ref(loaded), state))
        return loaded

    def close(self) -> None:
        """Give up what is being cut; voices stay as they are. Waits for seconds at most."""
        self._closing.cancel()
        with self._guard:
            thread, orders = self._thread, tuple(self._orders)
        for order in orders:
            order.settle()
        if thread is not None:
            thread.join(_FAREWELL_S)

    def _begin(self, order: _Order) -> None:
        with self._guard:
            if self._closing.cancelled:
                order.settle()
                return
            self._orders.append(order)
            if self._thread is None:
                # A daemon, ended by `close`: nobody waits for it at the process's end.
                self._thread = threading.Thread(target=self._work, name="cut", daemon=True)
                atexit.register(self.close)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._guard:
                if not self._orders or self._closing.cancelled:
                    self._thread = None
                    atexit.unregister(self.close)
                    return
                order = self._orders[0]
            try:
                self._cut(order)
            except Cancelled:
                _LOGGER.debug("cutting %s is given up", order.manifest.name)
            except Exception as error:
                if order.has_changed:
                    _LOGGER.debug("%s changed while it was cut: %s", order.manifest.name, error)
                else:
                    _tell(order.manifest, error)
            order.settle()
            with self._guard:
                self._orders.popleft()

    def _cut(self, order: _Order) -> None:
        """Cut a voice and let it speak from its parts. Raises `ModelError`, `Cancelled`."""
        manifest = order.manifest
        if (loaded := order.loaded()) is None:
            return
        config = loaded.config
        # From here on whether the voice stays in memory is for others to decide.
        del loaded
        parts = load_parts(manifest.files, self._settings.cache, self._closing)
        # Both are in memory until the last reply of the whole graph is over.
        lease = self._runtimes.memory.admit(manifest.name, self._size_of(manifest), lambda _used_too: False)
        try:
            whole = self._replace(order, config, parts)
        except BaseException:
            lease.end()
            raise
        if whole is None:
            lease.end()
            return
        weakref.finalize(whole, lease.end).atexit = False
        lease.leave()

    def _replace(self, order: _Order, config: VoiceConfig, parts: VoiceParts) -> PiperVoice | None:
        """Let a voice speak from its parts and return what spoke before; `None` if nobody has the voice any more."""
        if order.loaded() is None or order.has_changed:
            return None
        cut = self._in_parts(order.manifest, config, parts)
        self._closing.check()
        if (loaded := order.loaded()) is None:
            return None
        whole, loaded.voice = loaded.voice, cut
        return whole

    def _whole(self, manifest: Manifest, config: VoiceConfig) -> WholeVoice | None:
        """Return a voice whose sentences are one computation each; `None` if it has no such graph, or a broken one."""
        if "graph" not in manifest.files:
            return None
        try:
            return WholeVoice(manifest.files["graph"], config.rate_hz, self._runtimes.load)
        except ModelError:
            return None

    def _in_parts(self, manifest: Manifest, config: VoiceConfig, parts: VoiceParts) -> CutVoice:
        # A decoder that is not understood tells nothing of its hop.
        if parts.hop not in (0, config.hop):
            raise ModelInvalid(
                f"{manifest.files['config'].name} says {config.hop} samples per frame, the graph makes {parts.hop}; "
                "take the config that belongs to the voice"
            )
        open_npu = partial(
            open_stage, manifest.name, manifest.files, config.rate_hz, self._runtimes, self._settings.cache
        )
        return CutVoice(parts, config.hop, config.rate_hz, self._runtimes.load, open_npu)


def _settled(loaded: LoadedVoice) -> LoadedVoice:
    loaded.settled.set()
    return loaded


def _state(manifest: Manifest) -> tuple[int, ...]:
    """Return what changes when the voice's graph does; empty without one."""
    try:
        status = manifest.files["graph"].stat()
    except (KeyError, OSError):
        return ()
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _tell(manifest: Manifest, obstacle: Exception) -> None:
    """Log why a voice is not spoken in windows."""
    if isinstance(obstacle, GraphNotSplittable):
        _LOGGER.info("voice %s cannot be cut (%s): each sentence is spoken in one go", manifest.name, obstacle)
        return
    reason = str(obstacle) if isinstance(obstacle, ModelError) else f"{type(obstacle).__name__}: {obstacle}"
    _LOGGER.warning("voice %s stays whole (%s): each sentence is spoken in one go", manifest.name, reason)
