import asyncio
import errno
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.event import Event

from wyoming_rknn.errors import ProtocolError
from wyoming_rknn.server.framing import FrameLimits, FrameReader, Idle, encode

LIMITS = FrameLimits(header_bytes=2048, payload_bytes=4096, idle_s=20, frame_s=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.builds(
    Event,
    type=st.text(min_size=1, max_size=20),
    data=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    payload=st.none() | st.binary(min_size=1, max_size=200),
)


def opened(*pieces, ended=True, limit=LIMITS.header_bytes):
    reader = asyncio.StreamReader(limit=limit)
    for piece in pieces:
        reader.feed_data(piece)
    if ended:
        reader.feed_eof()
    return reader


async def read(*pieces, limits=LIMITS):
    return await FrameReader(opened(*pieces, limit=limits.header_bytes), limits).read()


async def read_all(data, limits=LIMITS):
    frames, events = FrameReader(opened(data, limit=limits.header_bytes), limits), []
    while (event := await frames.read()) is not None:
        events.append(event)
    return events


def header(**fields):
    return json.dumps({"type": "test", **fields}).encode() + b"\n"


class TestTolerance:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b'{"type":"describe"}\n', {}),
            (b'{"type": "describe", "data": {"a": 1}}\n', {"a": 1}),
            (b'{"type": "describe", "data_length": 8}\n{"a": 2}', {"a": 2}),
            (b'{"data": {"a": 1, "b": 1}, "data_length": 8, "type": "describe"}\n{"a": 2}', {"a": 2, "b": 1}),
            (b'{"type": "describe", "data": null}\n', {}),
            (b'{"type": "describe", "data": null, "data_length": null, "payload_length": null}\n', {}),
            (b'{"type": "describe", "data_length": 0, "payload_length": 0}\n', {}),
            (b'{"type": "describe", "data": {"a": 1}}\r\n', {"a": 1}),
            (b'{"type": "describe", "data_length": 10}\r\n{"a": 2}\r\n', {"a": 2}),
            (b' \t{"extra": [1, {}], "version": "9.9", "type": "describe"} \n', {}),
            (b'{"type": "describe", "data": {"a": "\\ud800 \xc3\xa9"}}\n', {"a": "\ud800 é"}),
        ],
    )
    async def test_every_way_to_write_an_event_is_taken(self, data, expected):
        event = await read(data)
        assert (event.type, event.data, event.payload) == ("describe", expected, None)

    async def test_payloads_are_taken(self):
        event = await read(header(payload_length=5), b"a\nb\0c")
        assert event.payload == b"a\nb\0c"

    async def test_events_follow_each_other(self):
        data = (
            header(data={"n": 1}, payload_length=1)
            + b"\n"
            + header(data={"n": 2})
            + header(data_length=8)
            + b'{"n": 3}'
        )
        assert [event.data["n"] for event in await read_all(data)] == [1, 2, 3]

    async def test_events_may_arrive_byte_by_byte(self):
        reader = opened(ended=False)
        frames = FrameReader(reader, LIMITS)
        reading = asyncio.create_task(frames.read())
        for byte in header(data={"a": "é"}, data_length=8, payload_length=2) + b'{"b": 1}xy':
            await asyncio.sleep(0)
            reader.feed_data(bytes((byte,)))
        event = await reading
        assert (event.data, event.payload) == ({"a": "é", "b": 1}, b"xy")


class TestMalformed:
    @pytest.mark.parametrize(
        "line",
        [
            b"hello\n",
            b"GET / HTTP/1.1\r\n",
            b"\n",
            b"\r\n",
            b"\0\n",
            b"[]\n",
            b'["type"]\n',
            b"1\n",
            b"null\n",
            b"true\n",
            b'"describe"\n',
            b"{}\n",
            b'{"data": {}}\n',
            b'{"type": null}\n',
            b'{"type": 1}\n',
            b'{"type": ["describe"]}\n',
            b'{"type": {}}\n',
            b'{"type": "x"\n',
            b'{"type": "x"} {}\n',
            b"{'type': 'x'}\n",
            b'{"type": "\xff"}\n',
            b'\xef\xbb\xbf{"type": "x"}\n',
            b'{"type": "\xed\xa0\x80"}\n',
            b'{"type": "x", "data": NaN}\n',
            b'{"type": "x", "data": {"a": NaN}}\n',
            b'{"type": "x", "data": {"a": -Infinity}}\n',
            b'{"type": "x", "n": ' + b"9" * 1990 + b"}",
            b'{"type": "x", "data": []}\n',
            b'{"type": "x", "data": "a"}\n',
            b'{"type": "x", "data": false}\n',
            b'{"type": "x", "data_length": 2}\n[]',
            b'{"type": "x", "data_length": 4}\nnull',
            b'{"type": "x", "data_length": 3}\n{"a',
            b'{"type": "x", "data_length": 2}\n\xff\xff',
            b'{"type": "x", "data_length": 10}\n{"a": NaN}',
        ],
    )
    async def test_what_is_no_event_is_refused(self, line):
        if line.startswith(b'{"type": "x", "n"'):
            # Python turns no numeral of more than 4300 digits into an int.
            line = b'{"type": "x", "n": ' + b"9" * 5000 + b"}\n"
        with pytest.raises(ProtocolError) as raised:
            await read(line, limits=FrameLimits(header_bytes=65536))
        assert str(raised.value)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]")])
    @pytest.mark.parametrize("depth", [10_000, 100_000])
    async def test_deep_nesting_is_refused(self, opening, closing, depth):
        nested = b'{"a":' + opening * depth + b"1" + closing * depth + b"}"
        with pytest.raises(ProtocolError, match="the data block is not valid JSON"):
            await read(header(data_length=len(nested)), nested, limits=FrameLimits())
        line = b'{"type": "x", "data": ' + nested + b"}\n"
        with pytest.raises(ProtocolError, match="the header is not valid JSON"):
            await read(line, limits=FrameLimits(header_bytes=1 << 21))

    @pytest.mark.parametrize("key", ["data_length", "payload_length"])
    @pytest.mark.parametrize("value", [-1, -4096, 1.0, 0.5, "5", "", True, False, [], {}, [5]])
    async def test_a_length_that_is_none_is_refused(self, key, value):
        with pytest.raises(ProtocolError, match=f"'{key}' is not a whole number"):
            await read(header(**{key: value}), b"x" * 10)


class TestLimits:
    @pytest.mark.parametrize("key", ["data_length", "payload_length"])
    @pytest.mark.parametrize("length", [4097, 200_000_000, 10**30])
    async def test_what_is_announced_too_long_is_refused_before_it_arrives(self, key, length):
        reader = opened(header(**{key: length}), ended=False)
        with pytest.raises(ProtocolError, match=f"'{key}' is {length}, more than the 4096 bytes"):
            await asyncio.wait_for(FrameReader(reader, LIMITS).read(), 10)

    async def test_what_is_just_not_too_long_is_taken(self):
        data = json.dumps({"a": "x" * (4096 - 9)}).encode()
        assert len(data) == 4096
        event = await read(header(data_length=4096, payload_length=4096), data, b"y" * 4096)
        assert (len(event.data["a"]), len(event.payload)) == (4087, 4096)

    async def test_the_header_line_is_limited(self):
        line = header(data={"a": ""})
        longest = header(data={"a": "x" * (2048 - len(line))})
        assert len(longest) == 2048
        assert (await read(longest)).type == "test"
        with pytest.raises(ProtocolError, match="longer than 2048 bytes"):
            await read(header(data={"a": "x" * (2049 - len(line))}))

    @pytest.mark.parametrize("ended", [True, False])
    async def test_a_line_without_end_is_refused(self, ended):
        reader = opened(b"{" * 100_000, ended=ended)
        with pytest.raises(ProtocolError, match="longer than 2048 bytes"):
            await asyncio.wait_for(FrameReader(reader, LIMITS).read(), 10)

    async def test_nothing_is_buffered_for_what_is_refused(self):
        tracemalloc.start()
        try:
            for _ in range(50):
                with pytest.raises(ProtocolError):
                    await read(header(payload_length=200_000_000), b"x" * 1000)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


class TestEnd:
    async def test_the_end_between_events_is_quiet(self):
        assert await read() is None

    @pytest.mark.parametrize(
        "part",
        [
            b"{",
            b'{"type": "describe"}',
            header(data_length=5),
            header(data_length=5) + b'{"a"',
            header(payload_length=5) + b"1234",
            header(data_length=2, payload_length=5) + b"{}",
        ],
    )
    async def test_the_end_within_an_event_is_quiet_too(self, part):
        assert await read(part) is None

    async def test_silence_between_events_ends(self):
        frames = FrameReader(opened(ended=False), FrameLimits(idle_s=0.05, frame_s=20))
        with pytest.raises(Idle):
            await frames.read()

    @pytest.mark.parametrize("part", [b"", b"{", header(data_length=5), header(payload_length=5) + b"123"])
    async def test_a_peer_that_the_kernel_gives_up_is_neither_silent_nor_slow(self, part):
        reader = opened(part, ended=False)
        reading = asyncio.create_task(FrameReader(reader, LIMITS).read())
        await asyncio.sleep(0)
        reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        with pytest.raises(TimeoutError, match="Connection timed out"):
            await reading

    async def test_a_reader_goes_on_after_silence(self):
        reader = opened(ended=False)
        frames = FrameReader(reader, FrameLimits(idle_s=0.05, frame_s=20))
        with pytest.raises(Idle):
            await frames.read()
        reader.feed_data(header())
        assert (await frames.read()).type == "test"

    @pytest.mark.parametrize("part", [b"{", header(data_length=5), header(payload_length=5) + b"123"])
    async def test_an_event_that_stalls_is_an_error(self, part):
        frames = FrameReader(opened(part, ended=False), FrameLimits(idle_s=20, frame_s=0.05))
        with pytest.raises(ProtocolError, match=r"did not arrive in full within 0\.05 s"):
            await asyncio.wait_for(frames.read(), 10)

    async def test_an_event_that_trickles_is_an_error_too(self):
        reader = opened(b"{", ended=False)

        async def trickle():
            while True:
                reader.feed_data(b" ")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        with pytest.raises(ProtocolError, match="did not arrive in full"):
            await asyncio.wait_for(FrameReader(reader, FrameLimits(idle_s=20, frame_s=0.1)).read(), 10)
        trickling.cancel()


class TestEncoding:
    @given(EVENTS)
    def test_what_is_written_can_be_read(self, event):
        (back,) = asyncio.run(read_all(encode(event), FrameLimits()))
        assert back == event

    def test_an_event_is_one_piece_with_its_lengths(self):
        line, _, rest = encode(Event("audio-chunk", {"text": "é"}, b"\x01\x02")).partition(b"\n")
        head = json.loads(line)
        assert head.pop("version")
        assert head == {"type": "audio-chunk", "data_length": 14, "payload_length": 2}
        assert rest == '{"text": "é"}'.encode() + b"\x01\x02"

    def test_what_is_empty_is_left_out(self):
        assert set(json.loads(encode(Event("pong", {}, b"")))) == {"type", "version"}

    async def test_a_lone_surrogate_does_not_stop_an_event(self):
        (back,) = await read_all(encode(Event("error", {"text": "no voice '\ud800'"})))
        assert back.data == {"text": "no voice '?'"}

    def test_the_library_reads_what_is_written(self):
        from io import BytesIO

        from wyoming.event import read_event

        event = Event("audio-chunk", {"rate": 22050, "text": "日本"}, bytes(range(256)))
        assert read_event(BytesIO(encode(event))) == event
