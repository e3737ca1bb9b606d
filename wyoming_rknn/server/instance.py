"""Names under which the ports of this host are announced: stable, and different on every host."""

import contextlib
import hashlib
import re
import secrets
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from wyoming_rknn.errors import UsageError

Kind: TypeAlias = Literal["all", "tts", "asr"]
"""What a port serves."""

MACHINE_ID = Path("/etc/machine-id")
STATE_FILE = "instance-id"
MAX_BASE_BYTES = 48
"""Leaves room in a DNS label (63 bytes, RFC 1035) for a kind and two numbers."""

_MACHINE_ID_FORM = re.compile(r"[0-9a-f]{32}")
_INSTANCE_ID_FORM = re.compile(r"[0-9a-f]{8}")


def instance_id(state_dir: Path | None, machine_id: Path = MACHINE_ID) -> str:
    """Return 8 hex digits that stay the same on this host and differ between hosts; reads and writes files.

    Taken from the machine id, hashed because machine-id(5) asks for it never to be shown to others; without one an id
    is drawn once and kept in `state_dir`; if that cannot be written either, the host's name is hashed.
    """
    with contextlib.suppress(OSError, ValueError):
        text = machine_id.read_text(encoding="ascii").strip()
        if _MACHINE_ID_FORM.fullmatch(text) and int(text, 16):
            return _digest(text)
    if state_dir is not None:
        with contextlib.suppress(OSError):
            return _kept_id(state_dir)
    return _digest(socket.gethostname())


def default_base(state_dir: Path | None) -> str:
    """Return the name's first part where the user chose none."""
    return f"rknn-{instance_id(state_dir)}"


def instance_names(base: str, kinds: Sequence[Kind]) -> list[str]:
    """Return a name for each port: `base`, `base-tts` or `base-asr`; further ports of a kind get `-2`, `-3` ….

    Dots, which separate DNS labels, become hyphens, and control characters go. Raises `UsageError` if nothing is left.
    """
    cleaned = "".join(character for character in base if character.isprintable()).replace(".", "-").strip(" -")
    cleaned = cleaned.encode()[:MAX_BASE_BYTES].decode(errors="ignore").rstrip()
    if not cleaned:
        raise UsageError(f"{base!r} cannot be announced; give --zeroconf a name, or leave it out for one of our own")
    seen: Counter[Kind] = Counter()
    names = []
    for kind in kinds:
        seen[kind] += 1
        name = cleaned if kind == "all" else f"{cleaned}-{kind}"
        names.append(name if seen[kind] == 1 else f"{name}-{seen[kind]}")
    return names


def host_label(instance: str, hostname: str) -> str:
    """Return the DNS label that carries an instance's addresses: never `hostname`, whose records belong to others."""
    label = re.sub(r"[^a-z0-9]+", "-", instance.lower()).strip("-")
    if label != instance.lower():
        # Different names must not become the same label when what a host name cannot spell is left out.
        label = f"{label[:54]}-{_digest(instance)}".strip("-")
    return f"{label}-wyoming" if label == hostname.partition(".")[0].lower() else label


def _kept_id(state_dir: Path) -> str:
    path = state_dir / STATE_FILE
    drawn = secrets.token_hex(4)
    state_dir.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(drawn)
    except FileExistsError:
        kept = path.read_text(encoding="utf-8", errors="replace").strip()
        if _INSTANCE_ID_FORM.fullmatch(kept):
            return kept
        path.write_text(drawn, encoding="ascii")
    return drawn


def _digest(text: str) -> str:
    return hashlib.sha256(b"wyoming-rknn instance\0" + text.encode(errors="surrogateescape")).hexdigest()[:8]
