import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from wyoming_rknn.errors import ConversionError, UsageError
from wyoming_rknn.models.formats.rknn_file import RknnFile


def test_a_graph_is_built_and_simulated(toolkit, request_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built = toolkit.build(request_for(custom_string="frames=3"))

    np.testing.assert_array_equal(built.simulated["y"], [[[8, 12, 20]]])
    np.testing.assert_array_equal(built.simulated["z"], [[[1, 2, 4]]])
    assert built.cpu_layers == ("Reshape:x_rs",)
    assert built.regtask_lines == 0
    assert built.peak_mb > 10
    assert RknnFile.read(built.rknn).custom_string == "frames=3"
    assert "ConvAdd" in built.log.read_text()
    # What the toolkit leaves lying about is gone.
    assert sorted(path.name for path in built.rknn.parent.iterdir()) == ["graph.onnx", "logs", "tiny.rknn"]


def test_register_overflows_fail_a_build_that_reports_success(toolkit, request_for, faults):
    faults("regtask")
    with pytest.raises(ConversionError, match=r"3 values .*REGTASK.*; take half, .*--toolkit 2\.3\.2.*--allow-regtask"):
        toolkit.build(request_for(smaller="take half"))


def test_register_overflows_are_kept_if_asked_for(toolkit, request_for, faults, caplog):
    faults("regtask")
    assert toolkit.build(request_for(allow_regtask=True)).regtask_lines == 3
    assert [record.levelno for record in caplog.records if "registers" in record.message] == [logging.WARNING]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("load-fails", r"could not convert tiny decoder for rk3588: load_onnx returned -1"),
        ("raises", r"build ValueError: Traceback of many lines \(build: no such operator\)"),
        ("exit", "config SystemExit: config: no such option"),
        ("crash", r"was ended by signal 11 on tiny decoder for rk3588"),
        ("killed", "was ended by signal 9, perhaps for want of memory"),
        ("quiet-exit", "ended with exit code 0 and no answer"),
        ("no-file", "left no usable file"),
        ("truncated", "left no usable file"),
        ("other-target", "left no usable file"),
        ("no-result", "inference gave None of 2 outputs"),
    ],
)
def test_what_goes_wrong_is_told(toolkit, request_for, faults, fault, message):
    faults(fault)
    with pytest.raises(ConversionError, match=message) as caught:
        toolkit.build(request_for())
    log = Path(str(caught.value).rsplit("its log is ", 1)[1])
    assert log.name == "tiny-decoder-rk3588-2.5.0.log"
    assert log.is_file()
    assert "\n" not in str(caught.value)


def test_a_log_is_that_of_the_last_build(toolkit, request_for, faults):
    faults("regtask")
    first = toolkit.build(request_for(allow_regtask=True))
    faults()
    second = toolkit.build(request_for())
    assert (first.log, first.regtask_lines, second.regtask_lines) == (second.log, 3, 0)
    assert "REGTASK" not in second.log.read_text()


def test_a_build_of_the_same_name_at_once_hides_no_overflow(toolkit, request_for, faults, tmp_path, monkeypatch):
    sign = tmp_path / "sign"
    monkeypatch.setenv("TOOLKIT_DOUBLE_CHILD", str(sign))
    faults("regtask", "waits")
    (tmp_path / "other").mkdir()
    request, other = request_for(), request_for(out=tmp_path / "other" / "tiny.rknn")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(toolkit.build, request)
        wait_for(sign.exists)
        faults()
        try:
            second = toolkit.build(other)
        finally:
            Path(f"{sign}.go").touch()
        with pytest.raises(ConversionError, match=r"3 values .*REGTASK"):
            first.result()
    assert second.regtask_lines == 0
    # Each is kept whole, the last one stays.
    assert [path.name for path in toolkit.log_dir.iterdir()] == ["tiny-decoder-rk3588-2.5.0.log"]
    assert second.log.read_text().count("REGTASK") == 3


def test_what_else_the_compiler_complains_of_is_told(toolkit, request_for, faults, caplog):
    faults("complains")
    built = toolkit.build(request_for())
    assert built.errors == ("Meet unsupported layout",) * 5
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "reports success for tiny decoder for rk3588 but also 5 errors: Meet unsupported layout; " in warning.message
    assert warning.message.count("Meet") == 3 and str(built.log) in warning.message


def test_a_log_that_cannot_be_kept_is_no_reason_to_fail(toolkit, request_for, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    toolkit.build(request_for())
    assert [record.levelno for record in caplog.records if "--cache-dir" in record.message] == [logging.WARNING]
    assert list(toolkit.log_dir.iterdir()) == []


def test_another_version_is_recommended_only_to_the_lesser_one(toolkit, request_for, faults):
    faults("crash")
    with pytest.raises(ConversionError, match=r"take the proven version with --toolkit 2\.3\.2"):
        toolkit.build(request_for())


def test_a_build_that_never_ends_is_killed_with_all_it_started(toolkit, request_for, faults, tmp_path, monkeypatch):
    faults("hang")
    monkeypatch.setenv("TOOLKIT_DOUBLE_CHILD", str(tmp_path / "pids"))
    with pytest.raises(ConversionError, match=r"did not finish within 3 s .* --timeout S, or .*--toolkit 2\.3\.2"):
        toolkit.build(request_for(timeout_s=3))
    # On a machine that is very busy it may not have come so far.
    pids = (tmp_path / "pids").read_text() if (tmp_path / "pids").exists() else ""
    for pid in map(int, pids.split()):
        # It was sent a signal, which takes a moment.
        wait_for(lambda pid=pid: ended(pid))


def test_a_build_ends_with_the_program(tmp_path, request_for):
    # A process of its own starts the build and is killed then.
    graph = request_for().graph
    code = textwrap.dedent(f"""
        import sys, numpy as np
        from pathlib import Path
        from wyoming_rknn.convert.environment import Environment
        from wyoming_rknn.convert.toolkit import BuildRequest, VendorToolkit
        paths = ({str(Path(__file__).with_name("toolkit_double"))!r}, {str(Path(__file__).parents[2])!r})
        toolkit = VendorToolkit(Environment(Path(sys.executable), paths, "2.5.0"), Path({str(tmp_path / "logs")!r}))
        row = np.ones((1, 1, 3), np.float32)
        toolkit.build(BuildRequest(name="n", graph=Path({str(graph)!r}), target="rk3588", inputs=dict(a=row, b=row),
                                   out=Path({str(tmp_path / "o.rknn")!r})))
    """)
    pids = tmp_path / "pids"
    variables = {**os.environ, "TOOLKIT_DOUBLE": "hang", "TOOLKIT_DOUBLE_CHILD": str(pids)}
    program = subprocess.Popen([sys.executable, "-c", code], env=variables)
    try:
        wait_for(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
        worker, grandchild = map(int, pids.read_text().split())
        program.kill()
        program.wait()
        wait_for(lambda: ended(worker))
    finally:
        program.kill()
        program.wait()
        with suppress(NameError, ProcessLookupError):
            os.kill(grandchild, signal.SIGKILL)


def test_a_cancelled_build_leaves_no_process(toolkit, request_for, faults, tmp_path, monkeypatch):
    faults("hang")
    pids = tmp_path / "pids"
    monkeypatch.setenv("TOOLKIT_DOUBLE_CHILD", str(pids))

    def interrupt():
        wait_for(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        toolkit.build(request_for())
    thread.join()
    for pid in map(int, pids.read_text().split()):
        # It was sent a signal, which takes a moment.
        wait_for(lambda pid=pid: ended(pid))


def test_an_unknown_target_is_refused_at_once(toolkit, request_for):
    with pytest.raises(UsageError, match=r"--target rk3558 is not supported; did you mean .*rk3588"):
        toolkit.build(request_for(target="rk3558"))
    assert not toolkit.log_dir.exists()


def test_a_python_that_is_gone_is_told(toolkit, request_for, tmp_path):
    environment = type(toolkit.environment)(tmp_path / "gone", (), "2.3.2")
    with pytest.raises(ConversionError, match="could not be started"):
        type(toolkit)(environment, tmp_path / "logs").build(request_for())


def test_logs_that_cannot_be_written_are_told(toolkit, request_for, tmp_path):
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(ConversionError, match=r"logs cannot be written .*--cache-dir"):
        toolkit.build(request_for())


def test_imports_of_the_user_do_not_reach_the_toolkit(toolkit, request_for, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rknn.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    assert toolkit.build(request_for()).simulated.keys() == {"y", "z"}


def ended(pid):
    """Tell whether a process is gone or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
