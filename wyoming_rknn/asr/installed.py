"""The models of a program that lie on disk: which there are, which is meant, and those that are loaded."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from wyoming_rknn.asr import choice
from wyoming_rknn.asr.engine import AsrModel
from wyoming_rknn.errors import ModelNotFound, SpeechServerError
from wyoming_rknn.models.manifest import Detected, Manifest, Problem
from wyoming_rknn.models.shelf import Shelf, footprint
from wyoming_rknn.models.store import Detector, Store
from wyoming_rknn.npu.offer import offered
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")


class InstalledModels(Generic[_T]):
    """The models of one family. Thread-safe; looks at the disk at each call, so models come and go."""

    def __init__(
        self,
        settings: Settings,
        runtimes: Runtimes,
        detect: Detector,
        ranked: Callable[[Iterable[Manifest]], Sequence[Manifest]],
        open_model: Callable[[Manifest], _T],
        size_of: Callable[[Manifest], int] = footprint,
        obstacle: Callable[[Manifest], Problem | None] = lambda _: None,
    ) -> None:
        """Look for what `detect` finds; `ranked` puts the best one first, `open_model` may raise `ModelError`.

        `obstacle` tells why a model that this machine's runtimes could compute is of no use all the same.
        """
        self._runtimes = runtimes
        self._obstacle = obstacle
        self._ranked = ranked
        self._store = Store(settings.data_dirs, (detect,), soc=runtimes.npu_soc)
        self._wanted = choice.Wanted(settings.asr_model) if settings.asr_model else None
        # A model named by its path may lie beside the data folders.
        folders = () if self._wanted is None else (self._wanted.folder,)
        self._outside = Store(folders, (detect,), max_depth=0)
        self._shelf: Shelf[_T] = Shelf(open_model, runtimes.memory, size_of)
        self._reported: set[str] = set()

    def models(self) -> Sequence[AsrModel]:
        """Return all models but broken ones: the one that the settings name, then the best first."""
        manifests = self.manifests()
        broken = self._shelf.problems(manifests)
        usable = [manifest for manifest in manifests if manifest.name not in broken]
        chosen = None if self._wanted is None else self._wanted.choose(usable)
        ordered = sorted(usable, key=lambda manifest: manifest is not chosen)
        return [
            AsrModel(manifest.name, manifest.languages, manifest.description, chosen=manifest is chosen)
            for manifest in ordered
        ]

    def problems(self) -> Mapping[str, SpeechServerError]:
        """Return, by model name, what is wrong with files that look like a model, and with models found broken."""
        found = self._scan()
        broken = self._shelf.problems(found.manifests)
        return {problem.name: problem.error() for problem in (*found.problems, *broken.values())}

    def manifests(self) -> Sequence[Manifest]:
        """Return the models in all folders, the best one first."""
        return self._scan().manifests

    def load(self, name: str) -> _T:
        """Return a model by its name or that of its folder, in any spelling. Blocks.

        Raises `ModelError`, `ModelNotFound`.
        """
        if (loaded := self._shelf.get(name)) is not None:
            return loaded
        manifests = self.manifests()
        manifest = choice.named(name, manifests)
        if manifest is None:
            raise ModelNotFound(name, (manifest.name for manifest in manifests))
        return self._shelf.load(manifest)

    def load_manifest(self, manifest: Manifest) -> _T:
        """Return a model. Blocks. Raises `ModelError`."""
        return self._shelf.load(manifest)

    def clear(self) -> list[_T]:
        """Forget all models and return those that were loaded, for their owner to close."""
        return self._shelf.clear()

    def _scan(self) -> Detected:
        found, outside = self._store.scan(), self._outside.scan()
        problems = {(problem.path.resolve(), problem.name): problem for problem in (*outside.problems, *found.problems)}
        for problem in problems.values():
            if (line := f"{problem.path}: {problem.message}") not in self._reported:
                self._reported.add(line)
                _LOGGER.warning("%s", line)
        # What is surely meant as a path goes before what happens to have the same name.
        is_path = self._wanted is not None and self._wanted.is_path
        first, others = (outside, found) if is_path else (found, outside)
        models = choice.merged(first.manifests, others.manifests)
        computable = offered(Detected(tuple(self._ranked(models)), tuple(problems.values())), self._runtimes)
        obstacles = {manifest.name: self._obstacle(manifest) for manifest in computable.manifests}
        return Detected(
            tuple(manifest for manifest in computable.manifests if obstacles[manifest.name] is None),
            (*computable.problems, *(problem for problem in obstacles.values() if problem is not None)),
        )
