"""Conformance items 36 and 37: what cannot be spoken, and what must not be read aloud."""

import numpy as np
import pytest
from computing import on_cpu
from protocol.harness.client import inline
from protocol.harness.fake_engine import ALTO, audio, pause
from protocol.harness.log import Log
from protocol.harness.servers import serving

from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import espeak

SILENT = {
    "empty": "",
    "space": " ",
    "spaces": "     ",
    "newline": "\n",
    "blank lines": "\r\n\n \n",
    "dots": "...",
    "ellipsis": "…",
    "emoji": "🙂",
    "joined emoji": "👩‍👩‍👧 🇩🇪",
    "rule": "---",
    "stars": "**",
    "fence": "```\n```",
    "table": "|---|---|",
    "lone surrogate": "\ud83d",
    "control characters": "\0\x01\x7f",
    "zero width": "\u200b\u200d\ufeff\u2060",
    "full stop": ".",
    "marks": "?!",
    "quotes": '""',
    "tag": "<br/>",
}


@pytest.mark.parametrize("text", SILENT.values(), ids=SILENT)
async def test_c36_nothing_to_say_is_a_short_silence(text: str, log: Log):
    async with serving(espeak.create(Settings(), on_cpu())) as server, server.connect() as client:
        # json.dumps writes a lone surrogate as an escape, which is how one gets here.
        speech = await client.say(text)
        assert 0.05 <= speech.seconds <= 0.5
        assert not speech.samples.any()
        for pieces in ([text], [*text], []):
            speech = await client.stream(pieces)
            assert 0.05 <= speech.seconds <= 0.5
            assert not speech.samples.any()
        assert (await client.say("Hello.")).samples.any()
    log.check()


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\x1b[31mred\x1b[0m", "a\ud83db", "x" * 5000, "\u202eabc", "a\u0301" * 50]
)
async def test_c36_odd_characters_do_not_hinder_the_rest(text: str, log: Log):
    async with serving(espeak.create(Settings(), on_cpu())) as server, server.connect() as client:
        await client.say(text)
        assert (await client.say("Hello.")).samples.any()
    log.check()


WRITTEN = {
    "emphasis": ("This is **very** *nice* and __good__.", ["*", "_"]),
    "heading": ("# Title\n\nText.", ["#"]),
    "list": ("- one\n- two\n* three\n1. four", ["-", "*"]),
    "table": ("| a | b |\n|---|---|\n| c | d |", ["|", "--"]),
    "code": ("Run `ls`:\n```sh\nrm -rf /\n```\nDone.", ["`", "rm -rf"]),
    "link": ("See [the page](https://example.com/a/b?c=d#e) now.", ["http", "[", "(", "?c"]),
    "address": ("See https://www.example.com/path/to/page.html?x=1 now.", ["http", "//", "?x"]),
    "emoji": ("Well done 🎉👍🏽!", ["🎉", "👍", "🏽"]),
    "HTML": ("<b>Bold</b><br>and <i class='x'>italic</i>.", ["<", ">", "class"]),
    "entities": ("Salt &amp; pepper &lt; 5 &quot;x&quot;.", ["&amp", "&lt", "&quot", ";"]),
}


@pytest.mark.parametrize(("text", "unspoken"), WRITTEN.values(), ids=WRITTEN)
async def test_c37_what_is_written_for_the_eye_is_not_read_aloud(text: str, unspoken: list[str], log: Log):
    async with serving() as server, server.connect() as client:
        await client.say(text)
        said = " ".join(server.engine.texts)
        assert said
        for mark in unspoken:
            assert mark not in said, said
        await client.stream([*text])
        assert " ".join(server.engine.texts) == f"{said} {said}"
    log.check()


SPOKEN = [
    *(text for text, _ in WRITTEN.values()),
    "Write to john.doe@example.com.",
    "It is 21.5 °C, at night -3 °C.",
    "At 10:05 on 3/4/2025.",
    "It costs 1,234.50 €.",
    "“Curly” ‘quotes’ «and» „others“.",
    "100 % of 5 km/h",
    "Dr. No & Co.",
    "2^10 = 1024 ≈ 10³",
]


@pytest.mark.parametrize("text", SPOKEN)
async def test_c37_the_built_in_voice_speaks_it(text: str, log: Log):
    async with serving(espeak.create(Settings(), on_cpu())) as server, server.connect() as client:
        speech = await client.say(text)
        assert 0.2 < speech.seconds < 30
        assert np.abs(speech.samples.astype(int)).max() > 1000
    log.check()


async def test_c37_german_is_read_in_german(log: Log):
    async with serving(espeak.create(Settings(), on_cpu())) as server, server.connect() as client:
        for text, longer_than in (("Am 3. Oktober.", "Am Oktober."), ("1.234,50 €", "Euro"), ("-3 °C", "3")):
            voice = "espeak-de"
            assert (await client.say(text, voice)).seconds > (await client.say(longer_than, voice)).seconds + 0.2
    log.check()


async def test_c37_ssml_is_honoured(log: Log):
    async with serving() as server, server.connect() as client:
        speech = await client.say(
            '<speak><s>One.</s><break time="500ms"/><p>Two &amp; three.</p></speak>', text_format="ssml"
        )
        first, second = server.engine.texts
        assert (first, second) == ("One.", second)
        expected = [audio(first, ALTO), pause(0.5, ALTO), audio(second, ALTO)]
        assert speech.samples.tolist() == np.concatenate(expected).tolist()
        assert "amp" not in second
        server.engine.requests.clear()
        await client.say('<speak>Slow: <prosody rate="50%">down</prosody> now.</speak>', text_format="ssml")
        scales = {request.text.strip(".: "): request.prosody.length_scale for request in server.engine.requests}
        assert scales["down"] == pytest.approx(2.0)
        assert scales["now"] == scales["Slow"] == pytest.approx(1.0)
    log.check()


async def test_c37_ssml_may_be_streamed():
    markup = '<speak>One.<break time="300ms"/>Two.</speak>'
    async with serving() as server, server.connect() as client:
        speech = await client.stream([*markup], text_format="ssml")
        expected = [audio("One.", ALTO), pause(0.3, ALTO), audio("Two.", ALTO)]
        assert speech.samples.tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize(
    "markup", ["<speak>One.", "<speak><p>One.</speak>", "One. <", "<speak>One. <break", "One. & two"]
)
async def test_c37_malformed_ssml_is_text(markup: str, log: Log):
    async with serving() as server, server.connect() as client:
        await client.say(markup, text_format="ssml")
        assert "One." in " ".join(server.engine.texts)
        for text in server.engine.texts:
            assert "speak>" not in text
    log.check()


@pytest.mark.parametrize("text_format", ["text", "markdown", "", None, 5, {}])
async def test_c37_any_other_format_is_text(text_format: object, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(inline("synthesize", {"text": "Hello.", "text_format": text_format}))
        assert (await client.hear()).samples.tolist() == audio("Hello.", ALTO).tolist()
    log.check()
