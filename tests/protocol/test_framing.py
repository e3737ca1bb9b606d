"""Conformance items 1 to 5: well-formed events and their order."""

import asyncio
import json
import time

import pytest
from protocol.harness.client import frame, inline
from protocol.harness.fake_engine import ALTO, BASS, Script, audio
from protocol.harness.log import Log
from protocol.harness.servers import serving

SLOW = Script(window_s=0.5, window_samples=22050)


async def test_c01_describe_is_answered_at_once_when_idle():
    async with serving() as server:
        async with server.connect() as client:
            await client.describe()
        took = []
        for _ in range(20):
            async with server.connect() as client:
                begin = time.monotonic()
                await client.describe()
                took.append(time.monotonic() - begin)
    assert sorted(took)[10] < 0.1, took


async def test_c01_describe_is_answered_soon_while_the_device_is_busy():
    async with serving(script=SLOW) as server, server.connect() as first, server.connect() as second:
        for busy in (first, second):
            await busy.send("synthesize", {"text": "x" * 2000})
            await busy.expect("audio-start")
        took = []
        for _ in range(50):
            begin = time.monotonic()
            async with server.connect() as client:
                await client.describe()
            took.append(time.monotonic() - begin)
    # A blocked event loop would show windows of 500 ms each.
    assert sorted(took)[-2] < 0.25, took


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"synthesize","data":{"text":"Hello."}}\n',
        b'{"type":"synthesize","data_length":17}\n{"text":"Hello."}',
        b'{"type":"synthesize","data":{"text":"Wrong."},"data_length":17}\n{"text":"Hello."}',
        b'{"type":"synthesize","data":null,"data_length":17}\n{"text":"Hello."}',
        b'{"type":"synthesize","data":{"text":"Hello."},"data_length":0,"payload_length":0}\r\n',
        b'{"type":"synthesize","data":{"text":"Hello."},"data_length":null,"payload_length":null}\n',
        b'{"payload_length":3,"data_length":17,"extra":[1,{"a":null}],"version":"0.1","type":"synthesize"}\n'
        b'{"text":"Hello."}abc',
        b'  { "data" : { "text" : "Hello." , "more": 1 } , "type" : "synthesize" }  \r\n',
        b'{"type":"\\u0073ynthesize","data":{"text":"\\u0048ello."}}\n',
    ],
)
async def test_c02_data_is_taken_in_every_shape(data, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(data)
        assert (await client.hear()).samples.tolist() == audio("Hello.", ALTO).tolist()
        await client.describe()
    log.check()


@pytest.mark.parametrize("data", [b'{"type":"describe","data":null}\n', b'{"data":{},"type":"describe","a":1}\r\n'])
async def test_c02_an_event_needs_no_data(data):
    async with serving() as server, server.connect() as client:
        await client.write(data)
        await client.expect("info")


async def test_c02_bytes_may_arrive_one_by_one():
    text = "Grüße, 今天 ok."
    raw = f'{{"type":"synthesize","data":{{"text":"{text}"}}}}\n'.encode()
    async with serving() as server, server.connect() as client:
        for byte in raw + frame("synthesize", {"text": text}) + inline("describe"):
            await client.write(bytes([byte]))
            await asyncio.sleep(0)
        for _ in range(2):
            assert (await client.hear()).samples.tolist() == audio(text, ALTO).tolist()
        await client.expect("info")


async def test_c02_events_leave_as_the_protocol_has_them():
    async with serving() as server, server.connect() as client:
        await client.send("synthesize", {"text": "Hello."})
        for event in await client.until("audio-stop"):
            header = json.loads(event.raw.partition(b"\n")[0])
            assert header["version"].count(".") == 2
            assert header["type"] == event.type
            assert set(header) <= {"type", "version", "data", "data_length", "payload_length"}


async def test_c03_unknown_events_are_ignored(log: Log):
    async with serving() as server, server.connect() as client:
        for name in ("run-satellite", "no-such-event", "", "played", "voice-started"):
            await client.send(name, {"text": "x"}, b"payload")
        await client.describe()
    log.check()


async def test_c03_ping_is_answered_in_the_middle_of_a_synthesis():
    async with serving(script=SLOW) as server, server.connect() as client:
        await client.write(inline("ping") + inline("ping", {"text": "idle"}))
        assert (await client.expect("pong")).data.get("text") is None
        assert (await client.expect("pong")).data == {"text": "idle"}
        text = "x" * 150
        await client.send("synthesize", {"text": text})
        await client.expect("audio-start")
        sent = time.monotonic()
        await client.send("ping", {"text": "busy"})
        events = await client.until("audio-stop")
        (pong,) = (event for event in events if event.type == "pong")
        assert pong.data == {"text": "busy"}
        assert pong.at - sent < 0.4, "it waited for a window"
        assert b"".join(event.payload for event in events) == audio(text, ALTO).tobytes()


async def test_c04_pipelined_requests_are_answered_in_order():
    async with serving(script=Script(window_s=0.005)) as server, server.connect() as client:
        await client.write(
            frame("synthesize", {"text": "One."})
            + inline("describe")
            + frame("synthesize", {"text": "Two.", "voice": {"name": BASS.name}})
            + frame("synthesize-start")
            + frame("synthesize-chunk", {"text": "Three."})
            + frame("synthesize-stop")
            + inline("describe")
            + frame("synthesize", {"text": "Four."})
        )
        assert (await client.hear()).samples.tolist() == audio("One.", ALTO).tolist()
        await client.expect("info")
        assert (await client.hear()).samples.tolist() == audio("Two.", BASS).tolist()
        assert (await client.hear(streaming=True)).samples.tolist() == audio("Three.", ALTO).tolist()
        await client.expect("info")
        assert (await client.hear()).samples.tolist() == audio("Four.", ALTO).tolist()


async def test_c04_describe_within_a_stream_is_answered_after_it():
    async with serving() as server, server.connect() as client:
        await client.send("synthesize-start")
        await client.send("describe")
        await client.send("synthesize-chunk", {"text": "Hello."})
        await client.send("synthesize-stop")
        assert (await client.hear(streaming=True)).samples.tolist() == audio("Hello.", ALTO).tolist()
        await client.expect("info")


async def test_c04_many_pipelined_requests_and_then_too_many(log: Log):
    async with serving(script=Script(window_s=0.05)) as server:
        async with server.connect() as client:
            await client.write(frame("synthesize", {"text": "x"}) + 60 * inline("describe"))
            await client.hear()
            for _ in range(60):
                await client.expect("info")
        log.check()
        async with server.connect() as client:
            await client.write(frame("synthesize", {"text": "x" * 100}) + 500 * inline("describe"))
            await client.hear()
            *infos, error = await client.rest()
            assert error.data["code"] == "busy"
            # The one that is being answered does not wait.
            assert [event.type for event in infos] in (63 * ["info"], 64 * ["info"])
    log.check(warnings=1)


async def test_c04_too_many_describes_get_as_many_answers_as_were_taken_in(log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(80 * inline("describe"))
        *infos, error = await client.rest()
        assert len(infos) >= 64
        assert {event.type for event in infos} == {"info"}
        assert error.data["code"] == "busy"
    log.check(warnings=1)


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:0", "unix://{folder}/socket"])
async def test_c05_the_answer_arrives_in_full_after_a_half_close(uri, tmp_path):
    async with serving(script=Script(window_s=0.02), uri=uri.format(folder=tmp_path)) as server:
        async with server.connect() as client:
            await client.write(frame("synthesize", {"text": "One sentence."}) + inline("describe"))
            client.half_close()
            assert (await client.hear()).samples.tolist() == audio("One sentence.", ALTO).tolist()
            await client.expect("info")
            await client.expect_end()
        async with server.connect() as client:
            await client.write(inline("describe"))
            client.half_close()
            assert [event.type for event in await client.rest()] == ["info"]


async def test_c05_a_half_close_behind_a_full_queue_ends_the_connection(log: Log):
    # The failure at the head ends the connection although nobody takes the rest of the queue.
    async with serving(script=Script(encode_s=0.1, fail="bad")) as server, server.connect() as client:
        await client.write(frame("synthesize", {"text": "bad"}))
        await asyncio.sleep(0.05)
        await client.write(64 * inline("describe"))
        client.half_close()
        assert [event.data.get("code") for event in await client.rest(5.0)] == ["engine-error"]
    log.check(warnings=1)
