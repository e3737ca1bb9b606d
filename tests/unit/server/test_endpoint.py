import errno
import os
import socket
import stat

import pytest

from wyoming_rknn.errors import UsageError
from wyoming_rknn.server.endpoint import Endpoint, bind


@pytest.fixture
def listen():
    """Bind, and close what was bound."""
    sockets = []

    def listen(uri):
        bound = bind(Endpoint.parse(uri))
        sockets.extend(bound)
        return bound

    yield listen
    for each in sockets:
        each.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(*address):
    with socket.create_connection(address, 5):
        return True


has_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("uri", "scheme", "host", "port", "path"),
    [
        ("tcp://0.0.0.0:10800", "tcp", "0.0.0.0", 10800, "."),
        ("tcp://[::]:10800", "tcp", "::", 10800, "."),
        ("tcp://[fe80::1]:1", "tcp", "fe80::1", 1, "."),
        ("tcp://speech.local:10800/", "tcp", "speech.local", 10800, "."),
        ("TCP://Speech:65535", "tcp", "speech", 65535, "."),
        ("tcp://:10800", "tcp", "", 10800, "."),
        ("tcp://*:0", "tcp", "*", 0, "."),
        ("unix:///run/speech.sock", "unix", "", 0, "/run/speech.sock"),
        ("unix://speech.sock", "unix", "", 0, "speech.sock"),
        ("unix:///run/a b#c?d%20.sock", "unix", "", 0, "/run/a b#c?d%20.sock"),
        ("stdio://", "stdio", "", 0, "."),
    ],
)
def test_addresses_are_read(uri, scheme, host, port, path):
    endpoint = Endpoint.parse(uri)
    assert (endpoint.scheme, endpoint.host, endpoint.port, str(endpoint.path)) == (scheme, host, port, path)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("", "write tcp://HOST:PORT, unix:///path or stdio://"),
        ("10800", "write tcp://HOST:PORT"),
        ("localhost:10800", "write tcp://HOST:PORT"),
        ("http://localhost:10800", "write tcp://HOST:PORT"),
        ("tcp://localhost", "has no valid port"),
        ("tcp://localhost:", "has no valid port"),
        ("tcp://localhost:speech", "has no valid port"),
        ("tcp://localhost:65536", "has no valid port"),
        ("tcp://localhost:-1", "has no valid port"),
        ("tcp://::1:10800", "has no valid port"),
        ("tcp://[::1", "has no valid port"),
        ("tcp://", "has no valid port"),
        ("unix://", "write unix:///path/to/socket"),
    ],
)
def test_what_is_no_address_is_wrong_use(uri, advice):
    with pytest.raises(UsageError) as raised:
        Endpoint.parse(uri)
    assert advice in str(raised.value)
    assert repr(uri) in str(raised.value)


def test_ipv4(listen):
    (listener,) = listen("tcp://127.0.0.1:0")
    assert listener.family == socket.AF_INET
    assert answers("127.0.0.1", listener.getsockname()[1])


@has_ipv6
@pytest.mark.parametrize("host", ["[::]", "", "*"])
def test_all_addresses_of_both_kinds(listen, host):
    (listener,) = listen(f"tcp://{host}:0")
    port = listener.getsockname()[1]
    assert answers("127.0.0.1", port)
    assert answers("::1", port)


@has_ipv6
def test_one_ipv6_address(listen):
    (listener,) = listen("tcp://[::1]:0")
    assert answers("::1", listener.getsockname()[1])
    with pytest.raises(OSError):
        answers("127.0.0.1", listener.getsockname()[1])


def test_without_ipv6_all_addresses_are_those_of_ipv4(listen, monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (listener,) = listen("tcp://[::]:0")
    assert listener.family == socket.AF_INET
    assert answers("127.0.0.1", listener.getsockname()[1])


def test_all_addresses_of_a_name_share_a_port(listen):
    listeners = listen("tcp://localhost:0")
    expected = {(info[0], info[4][0]) for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {(each.family, each.getsockname()[0]) for each in listeners} == expected
    assert len({each.getsockname()[1] for each in listeners}) == 1


def test_a_name_with_several_addresses_is_served_at_all_of_them(listen, monkeypatch):
    def resolve(host, port, **kwargs):
        # Resolvers may name an address twice.
        found = ("127.0.0.1", "127.0.0.2", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    listeners = listen("tcp://speech.local:0")
    assert [each.getsockname()[0] for each in listeners] == ["127.0.0.1", "127.0.0.2"]
    assert len({each.getsockname()[1] for each in listeners}) == 1


def resolves_to(monkeypatch, *found):
    entries = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: entries)


@pytest.mark.parametrize("absent_first", [True, False])
def test_an_address_of_a_name_that_is_not_here_is_left_out(listen, monkeypatch, absent_first):
    # As ::1 of "localhost" where IPv6 is switched off; 192.0.2.0/24 is nobody's.
    addresses = [(socket.AF_INET, ("192.0.2.1", 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    resolves_to(monkeypatch, *(addresses if absent_first else reversed(addresses)))
    (listener,) = listen("tcp://speech.local:0")
    assert listener.getsockname()[0] == "127.0.0.1"


def test_a_kind_of_address_that_the_kernel_lacks_is_left_out(listen, monkeypatch):
    create = socket.create_server

    def create_server(address, *, family, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", create_server)
    resolves_to(monkeypatch, (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))
    (listener,) = listen("tcp://localhost:0")
    assert listener.getsockname()[0] == "127.0.0.1"
    resolves_to(monkeypatch, (socket.AF_INET6, ("::1", 0, 0, 0)))
    with pytest.raises(UsageError, match=r"cannot listen on tcp://localhost:0: Address family not supported"):
        listen("tcp://localhost:0")


def test_a_port_in_use_at_one_address_of_a_name_is_told(listen, monkeypatch):
    port = listen("tcp://127.0.0.2:0")[0].getsockname()[1]
    resolves_to(monkeypatch, (socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("127.0.0.2", port)))
    with pytest.raises(UsageError, match="in use"):
        listen(f"tcp://speech.local:{port}")


def test_a_link_local_address_keeps_its_scope(listen, monkeypatch):
    create, asked = socket.create_server, []

    def create_server(address, **options):
        asked.append(address)
        return create(("127.0.0.1", 0), **{**options, "family": socket.AF_INET})

    monkeypatch.setattr(socket, "create_server", create_server)
    resolves_to(monkeypatch, (socket.AF_INET6, ("fe80::1", 10800, 0, 7)))
    listen("tcp://[fe80::1%eth0]:10800")
    assert asked == [("fe80::1", 10800, 0, 7)]


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:0", pytest.param("tcp://[::]:0", marks=has_ipv6)])
def test_connections_send_at_once_and_notice_a_lost_peer(listen, uri):
    (listener,) = listen(uri)
    with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), 5):
        served, _ = listener.accept()
        with served:
            assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            options = ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            values = [served.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options]
            assert values == [1, 30, 10, 3]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", ""])
def test_a_port_in_use_is_told(listen, host):
    port = listen("tcp://127.0.0.1:0")[0].getsockname()[1]
    with pytest.raises(UsageError, match=rf"cannot listen on tcp://{host}:{port}: .*in use.*; choose another .*--uri"):
        bind(Endpoint.parse(f"tcp://{host}:{port}"))


@pytest.mark.parametrize("uri", ["tcp://no-such-host.invalid:1", "tcp://192.0.2.1:1"])
def test_an_address_that_is_not_ours_is_told(uri):
    with pytest.raises(UsageError, match=f"cannot listen on {uri}: .*; choose another"):
        bind(Endpoint.parse(uri))


def test_a_restarted_server_gets_its_port_back(listen):
    port = free_port()
    (listener,) = listen(f"tcp://127.0.0.1:{port}")
    client = socket.create_connection(("127.0.0.1", port), 5)
    served, _ = listener.accept()
    served.close()
    listener.close()
    assert listen(f"tcp://127.0.0.1:{port}")
    client.close()


@pytest.fixture
def socket_path(tmp_path, monkeypatch):
    # A path longer than some hundred characters cannot be bound.
    monkeypatch.chdir(tmp_path)
    return tmp_path.relative_to(tmp_path) / "s.sock"


def connects(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
    return True


def test_a_unix_socket(listen, socket_path):
    listen(f"unix://{socket_path}")
    assert stat.S_ISSOCK(socket_path.stat().st_mode)
    assert connects(socket_path)


def test_a_dead_servers_socket_is_replaced(listen, socket_path):
    (dead,) = listen(f"unix://{socket_path}")
    dead.close()
    with pytest.raises(ConnectionRefusedError):
        connects(socket_path)
    listen(f"unix://{socket_path}")
    assert connects(socket_path)


def test_a_live_servers_socket_is_left_alone(listen, socket_path):
    listen(f"unix://{socket_path}")
    with pytest.raises(UsageError, match="Address already in use; choose another"):
        listen(f"unix://{socket_path}")
    assert connects(socket_path)


def test_a_file_is_no_dead_socket(listen, socket_path):
    socket_path.write_text("precious")
    with pytest.raises(UsageError, match="Address already in use"):
        listen(f"unix://{socket_path}")
    assert socket_path.read_text() == "precious"


@pytest.mark.parametrize("path", ["missing/s.sock", "x" * 200])
def test_a_socket_that_cannot_be_made_is_told(socket_path, path):
    with pytest.raises(UsageError, match=r"cannot listen on unix://.*: .*; choose another address"):
        bind(Endpoint.parse(f"unix://{path}"))
