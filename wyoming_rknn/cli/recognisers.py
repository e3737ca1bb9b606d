"""Which speech-to-text models a command line means: here a name that is not known is an error."""

import logging

from wyoming_rknn.asr.engine import AsrModel, Bias
from wyoming_rknn.asr.programs import AsrChoice, AsrPrograms, match_language
from wyoming_rknn.errors import ModelNotFound, SpeechServerError
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)


def named(programs: AsrPrograms, settings: Settings) -> list[AsrChoice]:
    """Return the model that the settings name, or else all there are, of one program or of all, the default first.

    Raises `ModelNotFound`, or `SpeechServerError` if the program that is named has no model.
    """
    engine_name, model_name, language = settings.asr_engine, settings.asr_model, settings.language
    offered = [pair for pair in programs.offered() if engine_name in (None, pair[0].name)]
    if engine_name and not offered:
        raise SpeechServerError(
            f"{engine_name} has no model; put one into a folder named by --data-dir, or name another --asr-engine"
        )
    models = [(engine, model) for engine, models in offered for model in models]
    if model_name is not None:
        known = [model.name for _, model in models]
        models = [pair for pair in models if _means(model_name, pair[1])][:1]
        if not models:
            raise programs.problem(model_name) or ModelNotFound(model_name, known)
    if not models:
        raise ModelNotFound(None, ())
    return [AsrChoice(engine, model, match_language(language, model.languages)) for engine, model in models]


def loaded(programs: AsrPrograms, settings: Settings) -> AsrChoice:
    """Return the model that hears, loaded; one that nobody named and that is broken gives way to the next.

    Blocks. Raises `ModelNotFound`, and what is wrong with a model.
    """
    tried: set[str] = set()
    while True:
        choice = named(programs, settings)[0]
        try:
            choice.open(Bias()).close()
        except SpeechServerError as error:
            # A model that turns out to be broken is no longer offered, so the next one is the default.
            if settings.asr_model is not None or choice.model.name in tried:
                raise
            tried.add(choice.model.name)
            _LOGGER.warning("%s; another model listens", error)
            continue
        if settings.language and choice.language is None:
            known = ", ".join(choice.model.languages)
            _LOGGER.warning("%s does not know the language %r, but %s", choice.model.name, settings.language, known)
        return choice


def _means(name: str, model: AsrModel) -> bool:
    return model.chosen or model.name.casefold() == name.casefold()
