"""The languages of Qwen3-ASR: BCP-47 tags, and the names that the model was trained with."""

_NAMES = (
    ("ar", "Arabic"),
    ("cs", "Czech"),
    ("da", "Danish"),
    ("de", "German"),
    ("el", "Greek"),
    ("en", "English"),
    ("es", "Spanish"),
    ("fa", "Persian"),
    ("fi", "Finnish"),
    ("fil", "Filipino"),
    ("fr", "French"),
    ("hi", "Hindi"),
    ("hu", "Hungarian"),
    ("id", "Indonesian"),
    ("it", "Italian"),
    ("ja", "Japanese"),
    ("ko", "Korean"),
    ("mk", "Macedonian"),
    ("ms", "Malay"),
    ("nl", "Dutch"),
    ("pl", "Polish"),
    ("pt", "Portuguese"),
    ("ro", "Romanian"),
    ("ru", "Russian"),
    ("sv", "Swedish"),
    ("th", "Thai"),
    ("tr", "Turkish"),
    ("vi", "Vietnamese"),
    ("yue", "Cantonese"),
    ("zh", "Chinese"),
)
TAGS = tuple(tag for tag, _ in _NAMES)
"""BCP-47 tags of all languages, sorted."""
NAMES = tuple(name for _, name in _NAMES)
"""In the order of `TAGS`."""


def name_of(tag: str) -> str:
    """Return what the model calls the language of one of `TAGS`. Raises `KeyError`."""
    return dict(_NAMES)[tag]


def tag_of(name: str) -> str | None:
    """Return the tag of what the model calls a language, in any case; None for what is none of them."""
    wanted = name.strip().casefold()
    return next((tag for tag, known in _NAMES if known.casefold() == wanted), None)
