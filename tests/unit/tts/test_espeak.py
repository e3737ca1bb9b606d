import logging
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu

from wyoming_rknn.errors import Cancelled, EngineError, VoiceNotFound
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import espeak_library
from wyoming_rknn.tts.engine import Prosody, SpeechRequest
from wyoming_rknn.tts.espeak import EspeakEngine, create
from wyoming_rknn.tts.piper.phonemes import phonemize

RATE_HZ = 22050
SENTENCE = "Turn on the living room lights."
LONG = "The quick brown fox jumps over the lazy dog while the sun shines, " * 30
LANGUAGE_TAG = re.compile(
    r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*(-x(-[a-z\d]{1,8})+)?"
)


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.close(10)


@pytest.fixture
def engine():
    engine = EspeakEngine()
    yield engine
    engine.close()


def say(engine, scheduler, text, voice="espeak-en-us", **prosody):
    items = list(engine.speak(SpeechRequest(text, voice, prosody=Prosody(**prosody)), scheduler.stream()))
    return np.concatenate(items) if items else np.zeros(0, np.float32)


def seconds(audio):
    return len(audio) / RATE_HZ


def envelope(audio, count=60):
    """Loudness over `count` equal stretches: the same for the same words, whatever the pitch does."""
    stretches = np.array_split(audio, count)
    return np.log(np.array([np.sqrt(np.mean(stretch**2)) for stretch in stretches]) + 1e-3)


def likeness(one, other):
    return float(np.corrcoef(envelope(one), envelope(other))[0, 1])


def test_there_is_a_voice_for_every_language(engine):
    voices = engine.voices()
    names = [voice.name for voice in voices]
    assert len(voices) > 130
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"espeak-[a-z\d]+(-[a-z\d]+)*", name) for name in names)
    assert all(voice.rate_hz == RATE_HZ and voice.description and not voice.speakers for voice in voices)
    assert all(voice.description == voice.description.strip() for voice in voices)
    tags = [tag for voice in voices for tag in voice.languages]
    assert [tag for tag in tags if not LANGUAGE_TAG.fullmatch(tag)] == []
    assert all(voice.languages for voice in voices)


@pytest.mark.parametrize(
    ("name", "languages", "title"),
    [
        ("espeak-en-us", ("en-US", "en"), "English (America)"),
        ("espeak-en-gb", ("en-GB", "en"), "English (Great Britain)"),
        ("espeak-en-gb-x-rp", ("en-GB-x-rp",), "English (Received Pronunciation)"),
        ("espeak-en-us-nyc", ("en-US-x-nyc",), "English (America, New York City)"),
        ("espeak-en-shaw", ("en-Shaw",), "English (Shavian alphabet)"),
        ("espeak-de", ("de",), "German"),
        ("espeak-pt-br", ("pt-BR", "pt"), "Portuguese (Brazil)"),
        ("espeak-es-419", ("es-419", "es-MX"), "Spanish (Latin America)"),
        ("espeak-cmn", ("zh-CN", "zh", "cmn"), "Chinese (Mandarin, latin as English)"),
        ("espeak-yue", ("yue", "zh-HK"), "Chinese (Cantonese)"),
        ("espeak-chr-us-qaaa-x-west", ("chr-Qaaa-US-x-west", "chr"), "Cherokee"),
        ("espeak-vi-vn-x-central", ("vi-VN-x-central",), "Vietnamese (Central)"),
        ("espeak-nb", ("nb", "no"), "Norwegian Bokmål"),
    ],
)
def test_voices_carry_bcp_47_tags(engine, name, languages, title):
    voice = next(voice for voice in engine.voices() if voice.name == name)
    assert (voice.languages, voice.description) == (languages, title)


def test_every_voice_speaks(engine, scheduler, capfd):
    silent = [voice.name for voice in engine.voices() if not say(engine, scheduler, "a 1", voice.name).any()]
    assert silent == []
    assert capfd.readouterr() == ("", "")


def test_a_sentence_is_heard(engine, scheduler):
    audio = say(engine, scheduler, SENTENCE)
    assert audio.dtype == np.float32
    assert 1.0 < seconds(audio) < 2.5
    assert 0.2 < np.abs(audio).max() <= 1.0
    assert likeness(audio, say(engine, scheduler, SENTENCE)) > 0.9


def test_the_language_is_the_voices(engine, scheduler):
    english, german = (say(engine, scheduler, "Die Garage.", f"espeak-{tag}") for tag in ("en-us", "de"))
    assert likeness(english, german) < 0.9 or abs(seconds(english) - seconds(german)) > 0.1
    assert seconds(say(engine, scheduler, "今天天气很好。", "espeak-cmn")) > 1.0


def test_pieces_are_short(engine, scheduler):
    items = list(engine.speak(SpeechRequest(SENTENCE, "espeak-en-us"), scheduler.stream()))
    assert len(items) > 10
    assert all(0 < len(item) <= 0.13 * RATE_HZ for item in items)


def test_the_length_scale_sets_the_pace():
    scheduler = Scheduler()
    slow = create(Settings(length_scale=1.5), on_cpu())
    normal = seconds(say(EspeakEngine(), scheduler, SENTENCE))
    assert seconds(say(slow, scheduler, SENTENCE)) == pytest.approx(1.5 * normal, rel=0.15)
    assert seconds(say(slow, scheduler, SENTENCE, length_scale=1 / 3)) == pytest.approx(0.5 * normal, rel=0.15)
    extremes = [seconds(say(slow, scheduler, SENTENCE, length_scale=scale)) for scale in (1e-6, 1e6)]
    assert 0.3 < extremes[0] < 0.5 * normal < 2 * normal < extremes[1] < 5
    assert scheduler.close(10)
    slow.close()


def test_the_volume_is_a_fixed_gain(engine, scheduler):
    plain = say(engine, scheduler, SENTENCE)
    quiet_engine, loud_engine = (create(Settings(volume=volume), on_cpu()) for volume in (0.25, 8.0))
    quiet, loud = (say(one, scheduler, SENTENCE) for one in (quiet_engine, loud_engine))
    assert np.std(quiet) == pytest.approx(0.25 * np.std(plain), rel=0.05)
    assert np.std(plain) < np.std(loud)
    assert np.abs(loud).max() <= 1.0
    quiet_engine.close()
    loud_engine.close()


@pytest.mark.parametrize("text", ["", "  ", "\n", "...", "!", "\0", "\ud800", "\x01", "-- “” --", "\u0301"])
def test_nothing_speakable_gives_nothing(engine, scheduler, text):
    stream = scheduler.stream()
    assert list(engine.speak(SpeechRequest(text, "espeak-en-us"), stream)) == []
    assert stream.reserved_s == 0.0


def test_odd_characters_lose_nothing_else(engine, scheduler, capfd):
    plain = say(engine, scheduler, "Turn on the lights.")
    # \x01 begins a command of espeak-ng's own: here, 450 words per minute.
    for text in ("Turn on\0the lights.", "\ud800Turn on the \udfff lights.", "\x01450S Turn on the lights."):
        assert seconds(say(engine, scheduler, text)) >= 0.97 * seconds(plain)
    for text in ("\uffff a", "\U0010ffff a", "\u202e a", "é" * 3000, "[[a", "a\ufeff", "\x7f a"):
        assert say(engine, scheduler, text).any()
    assert capfd.readouterr() == ("", "")


def test_markup_is_no_markup(engine, scheduler):
    plain = seconds(say(engine, scheduler, "bold"))
    assert seconds(say(engine, scheduler, "<b>bold</b>")) > 1.5 * plain
    assert seconds(say(engine, scheduler, "a < b, isn't it")) > plain
    assert seconds(say(engine, scheduler, '<break time="30s"/> bold')) < 20


def test_an_unknown_voice_is_refused_at_once(engine, scheduler):
    with pytest.raises(VoiceNotFound, match="did you mean espeak-en-us"):
        engine.speak(SpeechRequest(SENTENCE, "espeak-en-ussr"), scheduler.stream())
    with pytest.raises(VoiceNotFound):
        engine.prepare("nobody")
    engine.prepare("espeak-de")


def synthesized_samples(monkeypatch):
    """Count what espeak-ng really computes."""
    counted = []
    synthesize = espeak_library.Library.synthesize

    def counting(self, text, identifier, words_per_minute, sink):
        def take(pcm):
            counted.append(len(pcm) // 2)
            return sink(pcm)

        synthesize(self, text, identifier, words_per_minute, take)

    monkeypatch.setattr(espeak_library.Library, "synthesize", counting)
    return counted


class Gate:
    """Holds espeak-ng back after its first piece, however quick it is."""

    def __init__(self, monkeypatch):
        self.opened = threading.Event()
        self.pieces = 0
        synthesize = espeak_library.Library.synthesize

        def gated(library, text, identifier, words_per_minute, sink):
            def take(pcm):
                more = sink(pcm)
                self.pieces += 1
                assert self.opened.wait(10)
                return more

            synthesize(library, text, identifier, words_per_minute, take)

        monkeypatch.setattr(espeak_library.Library, "synthesize", gated)


def test_the_first_piece_comes_before_the_rest_is_computed(engine, scheduler, monkeypatch):
    gate = Gate(monkeypatch)
    audio = engine.speak(SpeechRequest(LONG, "espeak-en-us"), scheduler.stream())
    first = next(audio)
    assert gate.pieces <= 1
    gate.opened.set()
    assert len(first) + sum(map(len, audio)) > 60 * RATE_HZ
    assert gate.pieces > 600


def test_cancelling_ends_the_synthesis_early(engine, scheduler, monkeypatch):
    gate = Gate(monkeypatch)
    stream = scheduler.stream()
    audio = engine.speak(SpeechRequest(LONG, "espeak-en-us"), stream)
    next(audio)
    stream.cancel()
    gate.opened.set()
    with pytest.raises(Cancelled):
        for _ in audio:
            pass
    assert gate.pieces <= 2
    assert seconds(say(engine, scheduler, SENTENCE)) < 2.5


def test_closing_the_iterator_ends_the_synthesis_early(engine, scheduler, monkeypatch):
    gate = Gate(monkeypatch)
    audio = engine.speak(SpeechRequest(LONG, "espeak-en-us"), scheduler.stream())
    next(audio)
    audio.close()
    gate.opened.set()
    assert say(engine, scheduler, SENTENCE).any()
    assert gate.pieces <= 2 + 30


def test_cancelling_before_the_synthesis_begins(engine, scheduler, monkeypatch):
    counted = synthesized_samples(monkeypatch)
    busy, stream = threading.Event(), scheduler.stream()
    scheduler.stream().submit(lambda: busy.wait(10), at_s=0.0)
    audio = engine.speak(SpeechRequest(SENTENCE, "espeak-en-us"), stream)
    stream.cancel()
    busy.set()
    with pytest.raises(Cancelled):
        next(audio)
    assert counted == []


def test_a_scheduler_that_stops_ends_the_audio(engine, scheduler):
    busy = threading.Event()
    scheduler.stream().submit(lambda: busy.wait(10), at_s=0.0)
    audio = engine.speak(SpeechRequest(SENTENCE, "espeak-en-us"), scheduler.stream())
    scheduler.close()
    with pytest.raises(Cancelled):
        next(audio)
    busy.set()


def test_what_fails_in_c_callbacks_reaches_the_listener(engine, scheduler, monkeypatch, capfd):
    def failing(samples, size):
        raise MemoryError("no room")

    engine.prepare("espeak-en-us")
    with monkeypatch.context() as patch:
        patch.setattr(espeak_library.ctypes, "string_at", failing)
        audio = engine.speak(SpeechRequest(SENTENCE, "espeak-en-us"), scheduler.stream())
        with pytest.raises(MemoryError, match="no room"):
            next(audio)
    assert capfd.readouterr() == ("", "")
    assert say(engine, scheduler, SENTENCE).any()


def test_speech_is_planned_ahead(engine, scheduler):
    stream = scheduler.stream()
    audio = engine.speak(SpeechRequest(SENTENCE, "espeak-en-us"), stream)
    assert 0.5 < stream.reserved_s <= 1.1 * seconds(np.concatenate(list(audio)))


def test_requests_at_once_do_not_mix(engine):
    texts = {
        "espeak-en-us": SENTENCE,
        "espeak-de": "Das Licht im Wohnzimmer ist jetzt eingeschaltet, und die Heizung läuft.",
        "espeak-fr": "Bonjour.",
        "espeak-cmn": "今天天气很好，我们去公园吧。",
    }
    texts = {voice.replace("fr", "fr-fr"): text for voice, text in texts.items()}
    alone = Scheduler()
    expected = {voice: say(engine, alone, text, voice) for voice, text in texts.items()}
    assert alone.close(10)
    # Schedulers of their own, so that nothing but the library's lock keeps them apart.
    schedulers = [Scheduler() for _ in range(4)]

    def work(job):
        number, voice = job
        return voice, say(engine, schedulers[number % 4], texts[voice], voice)

    with ThreadPoolExecutor(4) as pool:
        for voice, audio in pool.map(work, list(enumerate(texts)) * 10):
            assert len(audio) == pytest.approx(len(expected[voice]), rel=0.01)
            assert likeness(audio, expected[voice]) > 0.9
    assert all(scheduler.close(10) for scheduler in schedulers)


def test_it_lives_beside_the_phonemizers_own_espeak(engine, scheduler):
    expected_audio = say(engine, scheduler, SENTENCE)
    expected_phonemes = phonemize("Das Licht ist an.", "de")

    def work(number):
        if number % 2:
            return phonemize("Das Licht ist an.", "de") == expected_phonemes
        audio = say(engine, scheduler, SENTENCE)
        return len(audio) == pytest.approx(len(expected_audio), rel=0.01) and likeness(audio, expected_audio) > 0.9

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))


@pytest.mark.parametrize("first", ["espeak", "phonemes"])
def test_it_does_not_matter_which_espeak_is_loaded_first(first):
    speak = "engine = EspeakEngine(); assert len(engine.voices()) > 130"
    phonemes = "assert ''.join(phonemize('Hello', 'en-us')) == 'həlˈoʊ'"
    lines = [
        "from wyoming_rknn.tts.espeak import EspeakEngine",
        "from wyoming_rknn.tts.piper.phonemes import phonemize",
        *((speak, phonemes) if first == "espeak" else (phonemes, speak)),
        "engine.close()",
    ]
    root = Path(espeak_library.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_engines_share_the_library_and_close_apart(scheduler):
    one, other = EspeakEngine(), EspeakEngine()
    assert say(one, scheduler, SENTENCE).any()
    assert say(other, scheduler, SENTENCE).any()
    one.close()
    one.close()
    assert say(other, scheduler, SENTENCE).any()
    with pytest.raises(EngineError, match="stopped"):
        one.prepare("espeak-de")
    other.close()
    again = EspeakEngine()
    assert say(again, scheduler, SENTENCE).any()
    again.close()


def test_closing_while_a_request_runs_fails_nobody_badly(scheduler):
    engine = EspeakEngine()
    audio = engine.speak(SpeechRequest(LONG, "espeak-en-us"), scheduler.stream())
    next(audio)
    engine.close()
    assert sum(map(len, audio)) > 60 * RATE_HZ


def test_a_machine_without_the_library_has_no_voices(monkeypatch, caplog):
    def missing():
        raise EngineError("espeak-ng cannot be loaded (no such file)")

    monkeypatch.setattr(espeak_library, "_load", missing)
    espeak_library.library.cache_clear()
    try:
        engine = EspeakEngine()
        with caplog.at_level(logging.WARNING):
            assert engine.voices() == engine.voices() == ()
        assert len(caplog.records) == 1
        with pytest.raises(EngineError, match="cannot be loaded"):
            engine.prepare("espeak-de")
        engine.close()
    finally:
        espeak_library.library.cache_clear()
