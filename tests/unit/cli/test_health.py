import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

INFO = b'{"type": "info", "version": "1.10.2", "data_length": 2}\n{}'


@contextlib.contextmanager
def server(answer, address=("127.0.0.1", 0)):
    """Answer one client with what `answer(connection)` sends; yield where."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    asked = []

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(100))
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"unix://{address}" if family == socket.AF_UNIX else f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
    assert asked in ([], [b'{"type": "describe"}\n'])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_service_that_answers_is_healthy(run):
    with server(lambda connection: connection.sendall(INFO)) as uri:
        assert run("health", "--uri", uri) == (0, b"", "")


def test_a_unix_socket_is_asked_too(run):
    with server(lambda connection: connection.sendall(INFO), "s.sock") as uri:
        assert run("health", "--uri", uri) == (0, b"", "")


def test_the_answer_may_come_in_pieces(run):
    def dribble(connection):
        for byte in INFO:
            connection.sendall(bytes((byte,)))
            time.sleep(0.001)

    with server(dribble) as uri:
        assert run("health", "--uri", uri)[0] == 0


def test_the_address_of_the_environment_is_asked(run, monkeypatch):
    with server(lambda connection: connection.sendall(INFO)) as uri:
        monkeypatch.setenv("WYOMING_RKNN_URI", f"stdio:// {uri}")
        assert run("health") == (0, b"", "")


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_an_address_to_listen_at_is_asked_at_home(run, host):
    with server(lambda connection: connection.sendall(INFO)) as uri:
        assert run("health", "--uri", f"tcp://{host}:{uri.rpartition(':')[2]}")[0] == 0


def test_nothing_there_is_one_line(run, one_line):
    port = free_port()
    code, out, err = run("health", "--uri", f"tcp://127.0.0.1:{port}")
    assert (code, out) == (1, b"")
    assert f"tcp://127.0.0.1:{port} does not answer: [Errno 111] Connection refused" in one_line(err)
    code, _, err = run("health", "--uri", "unix://missing.sock")
    assert code == 1
    assert "unix://missing.sock does not answer: " in one_line(err)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "does not answer: it closed the connection"),
        (b'{"type": "in', "does not answer: it closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not answer: "),
        (b"[]\n", "does not answer: "),
        (b"\xff\n", "does not answer: "),
        (b'{"type": "error"}\n', "answers, but not with 'info'"),
        (b"{}\n", "answers, but not with 'info'"),
    ],
)
def test_another_answer_is_one_line(run, one_line, answer, complaint):
    with server(lambda connection: connection.sendall(answer)) as uri:
        code, _, err = run("health", "--uri", uri)
    assert code == 1
    assert complaint in one_line(err)


def test_a_connection_that_is_reset_is_one_line(run, one_line):
    def reset(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with server(reset) as uri:
        code, _, err = run("health", "--uri", uri)
    assert code == 1
    assert "does not answer: " in one_line(err)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_service_that_takes_long_is_not_healthy(run, one_line, trickles):
    done = threading.Event()

    def wait(connection):
        with contextlib.suppress(OSError):
            for _ in range(200):
                if done.wait(0.05):
                    break
                if trickles:
                    connection.sendall(b" ")

    with server(wait) as uri:
        begin = time.monotonic()
        code, _, err = run("health", "--uri", uri)
        spent_s = time.monotonic() - begin
        done.set()
    assert code == 1
    assert "does not answer: timed out" in one_line(err)
    assert 0.8 < spent_s < 5


def test_what_cannot_be_asked_is_wrong_use(run, one_line):
    code, _, err = run("health", "--uri", "stdio://")
    assert code == 2
    assert "name its tcp or unix address with --uri" in one_line(err)


def test_the_real_service_is_healthy_until_it_is_told_to_stop(run, tmp_path):
    command = [sys.executable, "-m", "wyoming_rknn", "serve", "--uri", "unix://s.sock", "--no-zeroconf"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path) as service:
        for line in service.stderr:
            if b"listening on unix://s.sock" in line:
                break
        assert run("health", "--uri", "unix://s.sock") == (0, b"", "")
        service.send_signal(signal.SIGTERM)
        rest = service.stderr.read()
    assert service.returncode == 0
    assert b"Traceback" not in rest
    assert not (tmp_path / "s.sock").exists()
