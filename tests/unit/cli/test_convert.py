"""`models convert`, without the vendor's toolkit."""

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from npu.stand_in_toolkit import StandInToolkit

from wyoming_rknn.convert.toolkit import BuildRequest, Built, VendorToolkit

GOLDEN = Path(__file__).parents[2] / "golden" / "sensevoice"
Run = Callable[..., tuple[int, bytes, str]]


@dataclass
class Signalled(StandInToolkit):
    """Is sent a signal while it builds."""

    number: int = 0

    def build(self, request: BuildRequest) -> Built:
        signal.raise_signal(self.number)
        return super().build(request)


@pytest.fixture
def sense(tmp_path: Path) -> Path:
    """Return the folder of the tests' own SenseVoice."""
    folder = tmp_path / "sense"
    folder.mkdir()
    for name in ("model.onnx", "am.mvn", "tokens.txt"):
        shutil.copyfile(GOLDEN / name, folder / name)
    return folder


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Return a function that gives what stands in for the toolkit."""

    def use(toolkit: object) -> None:
        monkeypatch.setattr(VendorToolkit, "prepared", lambda *_: toolkit)

    return use


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_conversion_is_summed_up(run: Run, sense: Path, tmp_path: Path, toolkit: Callable[[object], None]) -> None:
    toolkit(StandInToolkit(built={"errors": ("odd", "odder")}))
    code, out, err = run("models", "convert", sense, "out", "--target", "rk3588", "--seconds", "1")
    assert (code, err) == (0, "")
    first, left, errors, last = out.decode().splitlines()
    assert first.startswith("out/encoder-1s.rknn: ") and " dB in the simulator, 24 frames, " in first
    assert left == "  left to the CPU: Reshape:z_rs"
    assert errors == "  2 errors of the compiler, though it reports success: see " + errors.rpartition(" ")[2]
    assert last == "for rk3588, by toolkit 2.3.2; copy out into the board's data folder"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--frames", "32"), 2, "--frames is for voices"),
        (("--seconds", "31"), 2, "--seconds must be numbers from 1 to 30"),
        (("--timeout", "0"), 2, "--timeout 0 must be more than 0"),
        (("--toolkit", "2.3.1"), 2, "did you mean 2.3.2"),
        ((), 2, "used holds notes.txt, which is not of a former conversion"),
    ],
)
def test_wrong_use_is_told_before_the_toolkit_is_installed(
    words: tuple[str, ...],
    code: int,
    told: str,
    run: Run,
    sense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_line: Callable[[str], str],
) -> None:
    def prepared(*_: object) -> None:
        raise AssertionError("the toolkit was installed")

    monkeypatch.setattr(VendorToolkit, "prepared", prepared)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    found, out, err = run("models", "convert", sense, "used", "--target", "rk3588", *words)
    assert (found, out) == (code, b"")
    assert told in one_line(err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_the_program_leaves_nothing_behind(
    number: int, code: int, run: Run, sense: Path, tmp_path: Path, toolkit: Callable[[object], None], handlers: None
) -> None:
    toolkit(Signalled(number=number))
    before = {path.name for path in tmp_path.iterdir()}
    kept = {other: signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGHUP)}
    assert run("models", "convert", sense, "out", "--target", "rk3588", "--seconds", "1")[0] == code
    assert {path.name for path in tmp_path.iterdir()} == before
    assert {other: signal.getsignal(other) for other in kept} == kept


def test_what_nohup_ignores_stays_ignored(
    run: Run, sense: Path, tmp_path: Path, toolkit: Callable[[object], None], handlers: None
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    toolkit(Signalled(number=signal.SIGHUP))
    assert run("models", "convert", sense, "out", "--target", "rk3588", "--seconds", "1")[0] == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
