"""Every error the program raises on purpose.

    SpeechServerError                   something the user can act on; has a stable `code`
    ├── UsageError (ValueError)         wrong command line or settings; exit code 2
    ├── RequestError                    a client's request cannot be served
    │   ├── ProtocolError               the bytes are not Wyoming
    │   ├── InvalidRequest              a well-formed event with unusable fields
    │   ├── VoiceNotFound (LookupError)
    │   ├── ModelNotFound (LookupError)
    │   │   └── NotInCatalog            there is no such model to be fetched
    │   ├── ProgramNotFound (LookupError)
    │   ├── Busy                        too many requests at once
    │   ├── RequestTimeout              the rest of the request never came
    │   └── ShuttingDown
    ├── ModelError                      a model on disk cannot be used
    │   ├── ModelFileMissing (FileNotFoundError)
    │   ├── ModelInvalid                broken, foreign, or not what its config says
    │   ├── GraphNotSplittable          a voice that has no place to cut
    │   └── ConversionError             a model cannot be made ready for an NPU
    ├── DownloadError                   a model could not be fetched; what came of it is kept and continued
    │   ├── NetworkUnavailable
    │   ├── RemoteFileMissing
    │   ├── ModelGated                  the server wants a licence accepted
    │   ├── HashMismatch
    │   ├── DiskFull
    │   └── FolderNotWritable
    ├── EngineError                     an engine failed while it worked
    │   └── AcceleratorError            an NPU failed, hung, or computed what cannot be right
    │       ├── AcceleratorBusy         it has too much to do; in `runtime.accelerator`
    │       └── CallFailed              its library returned an error; in `runtime.rknn_library`
    ├── RuntimeUnavailable              what would compute is not there: a library, a driver, an NPU
    └── SoundUnreadable                 a file that is no sound we can read

`Cancelled` stands outside the tree: it ends work that nobody waits for any more and is never shown to a user.

Messages are one sentence that says what is wrong and, where there is one, the fix.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class SpeechServerError(Exception):
    """Base of all errors that are reported to a user or a client."""

    code = "internal-error"
    """Machine-readable name, stable across versions; sent in Wyoming `error` events."""


class UsageError(SpeechServerError, ValueError):
    """The command line, the environment or the settings file is wrong."""

    code = "usage-error"


class RequestError(SpeechServerError):
    """A client's request cannot be served."""

    code = "request-error"


class ProtocolError(RequestError):
    """The bytes received are not a Wyoming event."""

    code = "protocol-error"


class InvalidRequest(RequestError):
    """A well-formed event has fields that cannot be used."""

    code = "invalid-request"


class VoiceNotFound(RequestError, LookupError):
    """No engine has the voice that was asked for."""

    code = "voice-not-found"

    def __init__(self, wanted: str, known: Iterable[str], *, is_language: bool = False) -> None:
        problem = f"no installed voice speaks {wanted!r}" if is_language else f"voice {wanted!r} is not installed"
        fix = did_you_mean(wanted, known) or "; `wyoming-rknn models list` and `describe` show what is"
        super().__init__(problem + fix)


class ModelNotFound(RequestError, LookupError):
    """No speech-to-text engine has the model that was asked for, or there is none at all."""

    code = "model-not-found"

    def __init__(self, wanted: str | None, known: Iterable[str]) -> None:
        if wanted is None:
            super().__init__("no speech-to-text model is installed; put one into a folder named by --data-dir")
        else:
            fix = did_you_mean(wanted, known) or "; `wyoming-rknn models list` shows what is"
            super().__init__(f"model {wanted!r} is not installed{fix}")


class NotInCatalog(ModelNotFound):
    """No model of the catalogue has the name that was asked for."""

    code = "not-in-catalog"

    def __init__(self, wanted: str, known: Iterable[str], holding: Iterable[str] = ()) -> None:
        """Tell of names `known`, first of those `holding` what was asked for."""
        if names := list(holding):
            fix = f"; did you mean {' or '.join(names)}?"
        else:
            fix = did_you_mean(wanted, known) or "; `wyoming-rknn models list --available` shows what there is"
        RequestError.__init__(self, f"no model of the catalogue is called {wanted!r}{fix}")


class ProgramNotFound(RequestError, LookupError):
    """No program has the name given to `select-program`."""

    code = "program-not-found"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"program {name!r} is not served here{did_you_mean(name, known)}")


class Busy(RequestError):
    """More requests or connections than the server is set to take."""

    code = "busy"


class RequestTimeout(RequestError):
    """The client began a request and then sent no more of it."""

    code = "timeout"


class ShuttingDown(RequestError):
    """The server is stopping; the request was not finished."""

    code = "shutting-down"

    def __init__(self) -> None:
        super().__init__("the server is shutting down; try again once it is back")


class ModelError(SpeechServerError):
    """A model on disk cannot be used."""

    code = "model-error"


class ModelFileMissing(ModelError, FileNotFoundError):
    """A file that belongs to a model is not there."""

    code = "model-file-missing"


class ModelInvalid(ModelError):
    """A model file is broken, foreign, or contradicts its config."""

    code = "model-invalid"


class GraphNotSplittable(ModelError):
    """A voice graph has no place where it can be cut."""

    code = "graph-not-splittable"


class ConversionError(ModelError):
    """A model cannot be converted for an NPU."""

    code = "conversion-failed"


class DownloadError(SpeechServerError):
    """A model could not be downloaded; what came of it so far is kept and continued the next time."""

    code = "download-failed"


class NetworkUnavailable(DownloadError):
    """The server cannot be reached, or failed again and again."""

    code = "network-unavailable"


class RemoteFileMissing(DownloadError):
    """The server does not have the file."""

    code = "remote-file-missing"


class ModelGated(DownloadError):
    """The server gives the file only to those who accepted a licence or have access."""

    code = "model-gated"


class HashMismatch(DownloadError):
    """What the server sent is not the file that was asked for."""

    code = "hash-mismatch"


class DiskFull(DownloadError):
    """The disk has no room."""

    code = "disk-full"


class FolderNotWritable(DownloadError):
    """The folder for models must not be written to."""

    code = "folder-not-writable"


class EngineError(SpeechServerError):
    """An engine failed while it was working on a request."""

    code = "engine-error"


class AcceleratorError(EngineError):
    """An NPU cannot load a graph, failed, hung, or computed what cannot be right."""

    code = "accelerator-error"


class RuntimeUnavailable(SpeechServerError):
    """What would compute graphs cannot be used on this machine."""

    code = "runtime-unavailable"


class SoundUnreadable(SpeechServerError):
    """A sound file cannot be read."""

    code = "sound-unreadable"


class Cancelled(Exception):
    """Work was given up because nobody waits for its result."""


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return a clause that names the known words closest to `name`, or how to see all of them."""
    names = sorted(set(known))
    folded = {candidate.casefold(): candidate for candidate in names}
    close = [folded[match] for match in get_close_matches(name.casefold(), folded, n=limit, cutoff=0.6)]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if names and len(names) <= 8:
        return f"; there is {', '.join(names)}"
    return ""
