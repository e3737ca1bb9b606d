"""What Qwen3-ASR is asked: the context, the audio, the language, and what it has already answered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wyoming_rknn.asr.engine import Bias
from wyoming_rknn.asr.qwen3.tokenizer import AUDIO_END, AUDIO_PAD, AUDIO_START, TEXT, TURN_END, TURN_START, Tokenizer

MOST_TERMS = 80
MOST_TERM_TOKENS = 150
"""What reading a context takes, a quarter of a second on an RK3588, must not outweigh what it is good for."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens of a request."""

    ids: tuple[int, ...]
    audio_begin: int
    """Where the first row of audio stands; what is before depends on the context alone."""

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        context: str,
        audio_rows: int,
        language: str | None = None,
        prefix: Sequence[int] = (),
    ) -> "Prompt":
        """Return the request for `audio_rows` rows of audio, as the model was trained to read it.

        `context` stands as it is in the system turn, "" for none. `language` is the model's name of one, such as
        "German", or None to have the model find out; its answer then begins with it. `prefix` is the answer so far.
        The template is that of the published checkpoints.
        """
        special = tokenizer.special
        audio_pad = special(AUDIO_PAD)
        ids = [special(TURN_START), *tokenizer.encode(f"system\n{context}"), special(TURN_END)]
        ids += [*tokenizer.encode("\n"), special(TURN_START), *tokenizer.encode("user\n"), special(AUDIO_START)]
        audio_begin = len(ids)
        ids += [audio_pad] * audio_rows
        ids += [special(AUDIO_END), special(TURN_END), *tokenizer.encode("\n"), special(TURN_START)]
        if language is None:
            ids += tokenizer.encode("assistant\n")
        else:
            ids += [*tokenizer.encode(f"assistant\nlanguage {language}"), special(TEXT)]
        return cls((*ids, *prefix), audio_begin)


@dataclass(frozen=True, slots=True)
class Context:
    """Words that are likely to be said, in the order in which the model reads them."""

    terms: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return what stands in the prompt: bare terms with spaces between; the model heeds no instructions."""
        return " ".join(self.terms)

    @classmethod
    def of(cls, tokenizer: Tokenizer, bias: Bias) -> "Context":
        """Take names, then terms, each once whatever its case, until there are 80 or 150 tokens of them."""
        terms: list[str] = []
        tokens = 0
        for term in _distinct((*bias.names, *bias.terms)):
            tokens += len(tokenizer.encode(f" {term}"))
            if tokens > MOST_TERM_TOKENS or len(terms) == MOST_TERMS:
                break
            terms.append(term)
        return cls(tuple(terms))


def _distinct(terms: Iterable[str]) -> Iterable[str]:
    """Return terms on one line each, the first of those that differ in nothing but case, and none that is empty."""
    found: dict[str, str] = {}
    for term in terms:
        if line := " ".join(term.split()):
            found.setdefault(line.casefold(), line)
    return found.values()
