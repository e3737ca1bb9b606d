"""Names as people write them."""

import re


def folded(name: str) -> str:
    """Return what is the same for all spellings of a name: without regard to case and separators."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")
