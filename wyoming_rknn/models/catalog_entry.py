"""One model of the catalogue: what it is, where its files are, and what is known of them."""

from dataclasses import dataclass

SUPPORTED_FORMATS = frozenset(
    {
        *("piper", "piper-pair"),
        *("qwen3-asr", "qwen3-asr-rkllm", "qwen3-asr-sherpa"),
        *("sensevoice-funasr", "sensevoice-sherpa", "sensevoice-npu"),
    }
)
"""Layouts that an engine of this version reads."""

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class CatalogSource:
    """Where a file is: in a repository of the hub, or at an address."""

    repo: str | None = None
    """As in "rhasspy/piper-voices"."""
    revision: str | None = None
    """Branch, tag or commit; none for "main"."""
    path: str | None = None
    """In the repository."""
    url: str | None = None
    """Of a file that is in no hub."""


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """A file of a model; what is not known is None."""

    name: str
    """Path below the model's folder, with slashes."""
    source: CatalogSource
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    about_bytes: int | None = None
    """The size as a page rounds it: enough to plan with, not to check a file."""
    unpack: tuple[str, ...] = ()
    """If it is an archive: its members that are the model's files, which belong into the folder by their last names."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that can be had."""

    name: str
    kind: str
    """What it is for: "tts", "asr"."""
    format: str
    """Layout of its files; one of `SUPPORTED_FORMATS`, or one that no engine reads yet."""
    languages: tuple[str, ...] = ()
    """BCP-47 tags, for a voice most specific first; none if not known."""
    language_name: str = ""
    """A voice's language in English: "German (Germany)"."""
    quality: str = ""
    num_speakers: int = 1
    speakers: tuple[str, ...] = ()
    """Names of speakers ordered by id; empty for one speaker."""
    licence: str = ""
    home: str = ""
    """Repository of the hub or address of a page that tells more."""
    targets: tuple[str, ...] = ()
    """SoCs that its files for the NPU are made for; none for what a CPU computes."""
    toolkit: str = ""
    """Version of the toolkit that made its files for the NPU."""
    files: tuple[CatalogFile, ...] = ()
    """None if it is not known which they are: such a model must be fetched by hand."""
    aliases: tuple[str, ...] = ()
    remark: str = ""
    """What is not verified, and what else to know before it is fetched."""

    @property
    def bytes(self) -> int | None:
        """Return the size of all files, roughly if `has_exact_size` is false; None if one is not known."""
        sizes = [file.bytes if file.bytes is not None else file.about_bytes for file in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    @property
    def has_exact_size(self) -> bool:
        """Tell whether `bytes` is right to the byte."""
        return bool(self.files) and all(file.bytes is not None for file in self.files)

    @property
    def is_supported(self) -> bool:
        """Tell whether an engine of this version can use it."""
        return self.format in SUPPORTED_FORMATS

    @property
    def is_fetchable(self) -> bool:
        """Tell whether it is known which files to fetch."""
        return bool(self.files)

    @property
    def needs_unpacking(self) -> bool:
        """Tell whether a file is an archive."""
        return any(file.unpack for file in self.files)

    @property
    def home_url(self) -> str:
        """Return the address of the page that tells more; empty if there is none."""
        return self.home if not self.home or "://" in self.home else f"{HUB}/{self.home}"
