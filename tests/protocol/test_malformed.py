"""Conformance items 6 to 8: malformed, oversized and truncated events, and silence."""

import asyncio
import random
import time

import pytest
from protocol.harness.client import connect, frame, inline
from protocol.harness.fake_engine import ALTO, Script, audio
from protocol.harness.log import Log
from protocol.harness.malformed import LENGTHS, MALFORMED
from protocol.harness.servers import serving

SLOW = Script(window_s=0.5, window_samples=22050)


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_c06_a_malformed_frame_gets_an_error_and_the_connection_ends(data, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(data)
        await client.expect_error("protocol-error")
        await client.expect_end()
        async with server.connect() as another:
            await another.describe()
    log.check(warnings=1)


async def test_c06_any_garbage_leaves_the_server_standing(log: Log):
    source = random.Random(6)
    async with serving() as server:
        for size in (1, 2, 10, 100, 1000, 100000, 300000):
            async with server.connect() as client:
                try:
                    await client.write(source.randbytes(size) + b"\n")
                    client.half_close()
                    await client.rest()
                except OSError:
                    pass  # what it had not read when it closed
        async with server.connect() as client:
            await client.describe()
    log.check(warnings=len(log.warnings))


async def test_c06_what_was_answered_before_a_malformed_frame_is_kept(log: Log):
    async with serving() as server, server.connect() as client:
        await client.describe()
        await client.write(b"{}\n")
        await client.expect_error("protocol-error")
        await client.expect_end()
    log.check(warnings=1)


@pytest.mark.parametrize("garbage", [b"hello\n", b'{"type":"x","data_length":-1}\n', 70000 * b"x"])
async def test_c06_what_was_asked_before_a_malformed_frame_is_answered(garbage: bytes, log: Log):
    async with serving(script=Script(window_s=0.02)) as server, server.connect() as client:
        await client.write(
            inline("describe") + frame("synthesize", {"text": "Hello."}) + inline("describe") + garbage + b"{}\n"
        )
        await client.expect("info")
        assert (await client.hear()).samples.tolist() == audio("Hello.", ALTO).tolist()
        await client.expect("info")
        await client.expect_error("protocol-error")
        await client.expect_end()
    log.check(warnings=1)


async def test_c06_a_malformed_frame_within_a_stream_ends_it(log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(inline("describe") + frame("synthesize-start") + inline("describe") + b"hello\n")
        await client.expect("info")
        await client.expect_error("protocol-error")
        await client.expect_end()
    log.check(warnings=1)


async def test_c06_nothing_follows_the_error_that_ends_a_connection(log: Log):
    times = 20
    async with serving(script=Script(window_samples=64)) as server:
        for _ in range(times):
            async with server.connect() as client:
                await client.send("synthesize-start")
                await client.send("synthesize-chunk", {"text": "x" * 1000 + ". And"})
                await client.expect("audio-start")
                await client.write(b"\n")
                events = await client.rest()
                assert [event.type for event in events].index("error") == len(events) - 1
    log.check(warnings=times)


@pytest.mark.parametrize("key", ["data_length", "payload_length"])
@pytest.mark.parametrize("length", LENGTHS)
async def test_c07_an_unusable_length_is_refused_before_anything_is_buffered(key, length, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(f'{{"type":"audio-chunk","{key}":{length}}}\n'.encode())
        await client.expect_error("protocol-error")
        await client.expect_end()
    log.check(warnings=1)


async def test_c07_the_longest_header_line_is_taken_and_one_byte_more_is_not(log: Log):
    async with serving() as server:
        line = inline("describe", {"pad": ""})
        for size, taken in ((65536, True), (65537, False), (200000, False)):
            async with server.connect() as client:
                await client.write(inline("describe", {"pad": "x" * (size - len(line))}))
                if taken:
                    await client.expect("info")
                else:
                    await client.expect_error("protocol-error")
                    await client.expect_end()
        async with server.connect() as client:
            await client.write(70000 * b"x")  # no line end at all
            await client.expect_error("protocol-error")
    log.check(warnings=3)


async def test_c07_the_limits_can_be_set(log: Log):
    text = "A long text. " * 40000  # 520 kB
    async with serving(max_header=1 << 20, max_payload=2048) as server, server.connect() as client:
        await client.write(inline("ping", {"text": text}))
        event = await client.receive()
        assert event is not None
        assert event.data["text"] == text
        await client.send("ping", {"text": "x" * 2030})
        await client.expect("pong")
        await client.send("no-such-event", {}, 2048 * b"x")
        await client.describe()
        await client.send("no-such-event", {}, 2049 * b"x")
        await client.expect_error("protocol-error")
    log.check(warnings=1)


async def test_c07_a_payload_of_the_largest_size_passes():
    async with serving() as server, server.connect() as client:
        await client.send("no-such-event", {}, bytes(1 << 20))
        await client.describe()


@pytest.mark.parametrize(
    "data",
    [b"{", b'{"type":"describe"}', b'{"type":"x","data_length":100}\n{"a"', b'{"type":"x","payload_length":100}\nabc'],
)
async def test_c08_a_truncated_event_ends_quietly(data, log: Log):
    async with serving() as server:
        async with server.connect() as client:
            await client.write(data)
            client.half_close()
            await client.expect_end()
        async with server.connect() as client:
            await client.write(data)
        async with server.connect() as client:
            await client.write(data)
            client.reset()
        await asyncio.sleep(0.05)
    log.check()


@pytest.mark.parametrize(
    "begun", [b'{"type"', b'{"type":"x","data_length":9}\n{', b'{"type":"x","payload_length":9}\n']
)
async def test_c08_a_slow_loris_is_dropped(begun, log: Log):
    async with serving(frame_timeout=0.3) as server, server.connect() as client:
        await client.describe()
        begin = time.monotonic()
        await client.write(begun)
        await asyncio.sleep(0.2)
        await client.write(b" ")  # a byte now and then gains no time
        await client.expect_error("protocol-error")
        await client.expect_end()
        assert 0.25 < time.monotonic() - begin < 5.0
    log.check(warnings=1)


async def test_c08_silence_between_requests_is_no_fault(log: Log):
    async with serving(frame_timeout=0.1, idle_timeout=0.8) as server, server.connect() as client:
        await client.describe()
        await asyncio.sleep(0.3)
        await client.describe()
        begin = time.monotonic()
        await client.expect_end()
        assert 0.6 < time.monotonic() - begin < 5.0
    log.check()


async def test_c08_a_client_that_waits_for_its_answer_is_not_idle(log: Log):
    async with serving(idle_timeout=0.2, script=Script(encode_s=0.7)) as server, server.connect() as client:
        await client.say("Hello.")
    log.check()


@pytest.mark.parametrize("text", ["", "Hello. ", "Hello. And"])
async def test_c08_a_stream_whose_text_stays_away_ends_in_an_error(text: str, log: Log):
    async with serving(idle_timeout=0.6) as server, server.connect() as client:
        await client.send("synthesize-start")
        await client.send("synthesize-chunk", {"text": text})
        *heard, error = await client.rest()
        assert error.data["code"] == "timeout"
        assert "--idle-timeout" in error.data["text"]
        expected = audio("Hello.", ALTO).tobytes() if text else b""
        assert b"".join(event.payload for event in heard) == expected
    log.check(warnings=1)


async def test_c08_a_stream_that_is_still_being_spoken_is_not_idle(log: Log):
    async with serving(idle_timeout=0.2, script=Script(encode_s=0.7)) as server, server.connect() as client:
        await client.send("synthesize-start")
        # The second sentence is not spoken before the text goes on or pauses for 300 ms.
        await client.send("synthesize-chunk", {"text": "One. Two."})
        heard = b""
        while len(heard) < audio("One.", ALTO).nbytes:
            event = await client.receive()
            assert event is not None
            assert event.type != "error"
            heard += event.payload
    log.check()


async def test_c08_a_stream_behind_another_request_is_not_idle(log: Log):
    async with serving(idle_timeout=0.4, script=Script(encode_s=1.0)) as server, server.connect() as client:
        await client.write(frame("synthesize", {"text": "Hello."}) + frame("synthesize-start"))
        await client.hear()
        await client.send("synthesize-chunk", {"text": "Bye."})
        await client.send("synthesize-stop")
        await client.hear(streaming=True)
    log.check()


async def test_c08_several_clients_are_independent():
    async with serving() as server, connect(server.uri) as slow, connect(server.uri) as quick:
        await slow.write(b'{"type":"desc')
        await quick.describe()
        await slow.write(b'ribe"}\n')
        await slow.expect("info")
