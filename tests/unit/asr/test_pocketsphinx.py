"""pocketsphinx in its child process."""

import contextlib
import gc
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from computing import on_cpu

from wyoming_rknn.asr import pocketsphinx, pocketsphinx_process
from wyoming_rknn.asr.engine import RATE_HZ, Bias
from wyoming_rknn.asr.pocketsphinx import MODEL, PocketsphinxEngine, create, speech
from wyoming_rknn.audio import from_int16
from wyoming_rknn.errors import Cancelled, EngineError, ModelError, ModelNotFound
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.settings import Settings

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or ROOT.parent / "shared" / "data")
WEATHER = ("en_whats_the_weather_like.wav", "what's the weather like")
COUNT = ("en_one_two_three.wav", "one two three")
NOTHING = Bias()

installed = pytest.mark.skipif(importlib.util.find_spec("pocketsphinx") is None, reason="pocketsphinx is not installed")


@pytest.fixture(scope="module")
def shared_engine():
    engine = PocketsphinxEngine()
    yield engine
    engine.close()


@pytest.fixture
def engine():
    engine = PocketsphinxEngine()
    yield engine
    engine.close()


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.close(10)


def clip(name):
    path = DATA / "speech" / name
    if not path.is_file():
        pytest.skip("no test speech; WYOMING_RKNN_TEST_DATA names the folder that has it")
    audio, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    return audio


def babble(seconds):
    """Noise with the rhythm of syllables: takes long to decode."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.2 * rng.standard_normal(t.size) * np.sin(2 * np.pi * 2 * t) ** 2).astype(np.float32)


def blip():
    """Too short to be a word, and quickly decoded."""
    return babble(1.0)[2000:2800]


def session_with(engine, audio, language=None):
    session = engine.open(MODEL, language, NOTHING)
    session.accept(audio)
    return session


def hear(engine, scheduler, audio):
    return session_with(engine, audio).finish(scheduler.stream())


def silence(seconds):
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def children(pid):
    """Return the processes that `pid` has started, ended ones that nobody has waited for among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = stat.read_text().rpartition(")")[2].split()
            if int(after_name[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def child_of(engine):
    return engine._recognizer._child._process.pid


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def decoding(engine, scheduler, audio):
    """Decode on another thread; yields the future and the stream once the copy of the child works."""
    engine.prepare(MODEL)
    stream = scheduler.stream()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(session_with(engine, audio).finish, stream)
        eventually(lambda: children(child_of(engine)))
        yield future, stream


@installed
@pytest.mark.parametrize(("name", "text"), [WEATHER, COUNT])
def test_what_is_said_is_understood(shared_engine, scheduler, capfd, name, text):
    audio = clip(name)
    transcript = hear(shared_engine, scheduler, audio)
    assert transcript.text == text
    assert transcript.language == "en"
    assert [piece.text for piece in transcript.pieces] == [f" {word}" for word in text.split()]
    times = [piece.begin_s for piece in transcript.pieces]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < len(audio) / RATE_HZ
    assert capfd.readouterr() == ("", "")


@installed
def test_every_utterance_is_the_first(shared_engine, scheduler):
    texts = {name: (clip(name), text) for name, text in (WEATHER, COUNT)}
    for name in (COUNT[0], WEATHER[0], COUNT[0]):
        audio, text = texts[name]
        assert hear(shared_engine, scheduler, audio).text == text
    seven = clip("en_digit_seven.wav")[:12000]
    first = hear(shared_engine, scheduler, seven)
    assert first.text == "seven"
    for _ in range(20):
        assert hear(shared_engine, scheduler, seven) == first
    for audio, text in texts.values():
        assert hear(shared_engine, scheduler, audio).text == text


@installed
@pytest.mark.parametrize(("name", "text"), [WEATHER, COUNT])
@pytest.mark.parametrize(
    "change",
    [
        lambda audio: 0.1 * np.concatenate([silence(0.6), audio, silence(0.7)]),
        lambda audio: audio * 0.5 + 0.25,
    ],
    ids=["silence", "offset"],
)
def test_neither_silence_nor_level_changes_the_words(shared_engine, scheduler, name, text, change):
    assert hear(shared_engine, scheduler, change(clip(name)).astype(np.float32)).text == text


@installed
def test_times_count_from_the_beginning_of_the_utterance(shared_engine, scheduler):
    audio = clip(COUNT[0])
    first, second, third = (
        [piece.begin_s for piece in hear(shared_engine, scheduler, np.concatenate([silence(seconds), audio])).pieces]
        for seconds in (1.0, 2.0, 7.0)
    )
    assert [begin + 1 for begin in first] == pytest.approx(second)
    assert [begin + 6 for begin in first] == pytest.approx(third)
    assert 1.0 < first[0] < 1.3


@installed
def test_audio_comes_in_pieces_of_any_length(shared_engine, scheduler):
    audio = clip(WEATHER[0])
    session = shared_engine.open(MODEL, "en-US", NOTHING)
    for begin, end in ((0, 1), (1, 1), (1, 160), (160, 5000), (5000, len(audio))):
        session.accept(audio[begin:end])
    transcript = session.finish(scheduler.stream())
    assert (transcript.text, transcript.language) == (WEATHER[1], "en-US")
    session.close()


@installed
def test_a_transcript_is_remembered_until_there_is_more_audio(shared_engine, scheduler):
    one, two = clip("en_cards_001.wav"), clip("en_digit_seven.wav")
    session = session_with(shared_engine, one)
    first = session.finish(scheduler.stream())
    cancelled = scheduler.stream()
    cancelled.cancel()
    # A computation would be cancelled.
    assert session.finish(cancelled) is first
    assert session.partial(cancelled) is first
    session.accept(silence(0.3))
    session.accept(two)
    with pytest.raises(Cancelled):
        session.finish(cancelled)
    whole = session.finish(scheduler.stream())
    assert whole.text == "ten of clubs seven"
    assert whole == hear(shared_engine, scheduler, np.concatenate([one, silence(0.3), two]))


@pytest.mark.parametrize(
    "audio",
    [silence(0), silence(60), babble(1)[:399], np.full(16000, 0.3, np.float32), np.full(16000, np.nan, np.float32)],
    ids=["none", "silence", "too short", "offset", "not a number"],
)
def test_nothing_said_costs_nothing(engine, scheduler, monkeypatch, audio):
    monkeypatch.setattr(pocketsphinx_process._Child, "recognize", lambda *_: pytest.fail("it was decoded"))
    session = pocketsphinx.PocketsphinxSession(engine._recognizer, "en")
    session.accept(audio)
    transcript = session.finish(scheduler.stream())
    assert (transcript.text, transcript.pieces, transcript.language) == ("", (), None)
    assert engine._recognizer._child is None


@installed
@pytest.mark.parametrize("samples", [400, 401, 560, 1000, 3000])
def test_short_noises_are_no_words(shared_engine, scheduler, samples):
    hear(shared_engine, scheduler, babble(1)[2000 : 2000 + samples])


def test_speech_is_cut_out_and_levelled():
    tone = np.sin(np.arange(16000) * 0.3).astype(np.float32)
    for level in (0.001, 0.1, 1.0):
        begin, pcm = speech(np.concatenate([silence(2), level * tone, silence(3)]))
        samples = np.frombuffer(pcm, "<i2")
        assert begin == 2 * RATE_HZ - 2400
        assert samples.size == 16000 + 2 * 2400
        assert np.abs(samples[2400:-2400]).max() == pytest.approx(400 * 2**0.5, rel=0.05)
    # A click neither sets the level nor overflows.
    clicked = np.concatenate([silence(1), 0.01 * tone, silence(1)])
    clicked[20000] = 1.0
    samples = np.frombuffer(speech(clicked)[1], "<i2")
    assert samples.max() == 32767
    assert np.median(np.abs(samples[2400:6000])) > 200
    assert speech(tone)[0] == 0
    assert len(speech(tone)[1]) == 32000


def test_the_model_speaks_for_itself():
    engine = create(Settings(), on_cpu())
    (model,) = engine.models()
    assert (engine.name, engine.partials) == ("pocketsphinx", False)
    assert (model.name, model.languages, model.chosen) == ("pocketsphinx-en-us", ("en", "en-US"), False)
    for description in (engine.description, model.description):
        assert "English" in description
        assert "modest" in description
        assert "uilt" in description
    engine.close()


@pytest.mark.parametrize(
    ("name", "chosen"), [("pocketsphinx-en-us", True), ("Pocketsphinx_EN-us", True), ("sensevoice", False)]
)
def test_the_settings_may_choose_it(name, chosen):
    engine = create(Settings(asr_model=name), on_cpu())
    assert [model.chosen for model in engine.models()] == [chosen]
    engine.close()


@pytest.mark.parametrize("call", ["prepare", "open"])
def test_an_unknown_model_is_refused(engine, call):
    arguments = ("whisper",) if call == "prepare" else ("whisper", None, NOTHING)
    with pytest.raises(ModelNotFound, match="pocketsphinx-en-us"):
        getattr(engine, call)(*arguments)


def test_without_the_package_there_is_no_model(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    engine = create(Settings(), on_cpu())
    with caplog.at_level(logging.INFO):
        assert engine.models() == engine.models() == ()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "pip install pocketsphinx" in record.message
    with pytest.raises(ModelError, match="pip install pocketsphinx"):
        engine.open(MODEL, None, NOTHING)
    engine.close()


def test_the_server_never_loads_the_package():
    lines = [
        "import sys",
        "sys.modules['pocketsphinx'] = None",
        "from wyoming_rknn.asr.pocketsphinx import create",
        "from wyoming_rknn.settings import Settings",
        "assert create(Settings(), None).models() == ()",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_broken_package_is_reported(engine, monkeypatch, tmp_path, capfd):
    # Where the child looks first.
    (tmp_path / "pocketsphinx.py").write_text("print('hello')\nraise ImportError('no such symbol\\nsecond line')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pocketsphinx, "_is_installed", lambda: True)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"\(ImportError: no such symbol\); install it again"):
            engine.prepare(MODEL)
    assert capfd.readouterr() == ("", "")


def test_a_package_that_ends_the_process_is_reported(engine, monkeypatch, tmp_path):
    (tmp_path / "pocketsphinx.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pocketsphinx, "_is_installed", lambda: True)
    with pytest.raises(ModelError, match="exit code 3 while it loaded its model"):
        engine.prepare(MODEL)
    assert engine._recognizer._child is None


def test_what_is_no_word_is_left_out(engine, scheduler, monkeypatch, tmp_path):
    (tmp_path / "pocketsphinx.py").write_text(
        "print('hello')\n"
        "class Segment:\n"
        "    def __init__(self, word, start_frame): self.word, self.start_frame = word, start_frame\n"
        "class Decoder:\n"
        "    def __init__(self, **config): pass\n"
        "    def start_utt(self): pass\n"
        "    def process_raw(self, pcm, no_search, full_utt): print(len(pcm))\n"
        "    def end_utt(self): pass\n"
        "    def hyp(self): return 'some'\n"
        "    def seg(self):\n"
        "        words = ['<s>', 'read(2)', '<sil>', \"'bout\", '[NOISE]', 'a.', '[SPEECH]', 'the(12)', '</s>']\n"
        "        return (Segment(word, 10 * place) for place, word in enumerate(words))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pocketsphinx, "_is_installed", lambda: True)
    transcript = hear(engine, scheduler, babble(1))
    assert [piece.text for piece in transcript.pieces] == [" read", " 'bout", " a.", " the"]
    assert [piece.begin_s for piece in transcript.pieces] == pytest.approx([0.1, 0.3, 0.5, 0.7])


@installed
def test_the_bundled_model_is_used_whatever_the_environment_names(engine, monkeypatch):
    monkeypatch.setenv("POCKETSPHINX_PATH", "nowhere")
    engine.prepare(MODEL)


@installed
def test_cancelling_gives_up_what_runs(shared_engine, scheduler):
    with decoding(shared_engine, scheduler, babble(60)) as (future, stream):
        child = child_of(shared_engine)
        stream.cancel()
        with pytest.raises(Cancelled):
            future.result(5)
    eventually(lambda: not children(child), 5)
    assert hear(shared_engine, scheduler, blip()).text == ""
    assert child_of(shared_engine) == child


@installed
def test_a_late_answer_is_taken_for_no_other(shared_engine, scheduler):
    with decoding(shared_engine, scheduler, clip("en_cards_005.wav")) as (future, stream):
        child = child_of(shared_engine)
        (copy,) = children(child)
        os.kill(child, signal.SIGSTOP)
        eventually(lambda: not is_running(copy))
        # The answer is there, but the child hears of the end of the wait only after it has passed it on.
        stream.cancel()
        with pytest.raises(Cancelled):
            future.result(5)
        os.kill(child, signal.SIGCONT)
    assert hear(shared_engine, scheduler, blip()).text == ""


@installed
def test_cancelling_while_another_one_is_decoded(shared_engine, scheduler):
    with decoding(shared_engine, scheduler, babble(60)) as (future, stream), ThreadPoolExecutor(1) as pool:
        other = scheduler.stream()
        waiting = pool.submit(shared_engine._recognizer.recognize, speech(babble(1))[1], other)
        other.cancel()
        try:
            with pytest.raises(Cancelled):
                waiting.result(5)
            assert not future.done()
        finally:
            stream.cancel()


@installed
def test_cancelling_while_the_model_loads(engine, scheduler):
    recognizer, streams = engine._recognizer, [scheduler.stream() for _ in range(2)]
    # The second one waits for its turn.
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(recognizer.recognize, bytes(3200), stream) for stream in streams]
        eventually(lambda: recognizer._child is not None)
        for stream in reversed(streams):
            stream.cancel()
        for future in futures:
            with pytest.raises(Cancelled):
                future.result(5)
    child = child_of(engine)
    engine.prepare(MODEL)
    assert child_of(engine) == child


@installed
@pytest.mark.parametrize("victim", ["child", "copy"])
def test_a_crash_is_tried_once_more(shared_engine, scheduler, caplog, victim):
    with decoding(shared_engine, scheduler, clip("en_cards_005.wav")) as (future, _):
        child = child_of(shared_engine)
        os.kill(child if victim == "child" else children(child)[0], signal.SIGKILL)
        assert future.result(60).text == "eight of spades four of clubs seven of hearts"
    assert (child_of(shared_engine) == child) == (victim == "copy")
    (record,) = caplog.records
    assert record.message == ("pocketsphinx was ended by signal 9, perhaps for want of memory; it tries once more")


@installed
@pytest.mark.parametrize("victim", ["child", "copy"])
def test_two_crashes_are_an_error(shared_engine, scheduler, victim):
    with decoding(shared_engine, scheduler, babble(60)) as (future, _):
        killed = []
        while len(killed) < 2:
            assert not future.done()
            # There is none while it is replaced.
            child = shared_engine._recognizer._child
            copies = [] if child is None else children(child._process.pid)
            for copy in set(copies) - set(killed):
                os.kill(child._process.pid if victim == "child" else copy, signal.SIGKILL)
                killed.append(copy)
        with pytest.raises(EngineError, match=r"ended by signal 9.*twice; install a speech-to-text model"):
            future.result(5)
    assert hear(shared_engine, scheduler, blip()).text == ""


@installed
def test_a_crash_between_utterances_is_not_noticed(shared_engine, scheduler, caplog):
    def kill():
        os.kill(child_of(shared_engine), signal.SIGKILL)
        eventually(lambda: not is_running(child_of(shared_engine)))

    shared_engine.prepare(MODEL)
    kill()
    shared_engine.prepare(MODEL)
    assert is_running(child_of(shared_engine))
    session = session_with(shared_engine, blip())
    kill()
    assert session.finish(scheduler.stream()).text == ""
    assert caplog.records == []


@installed
def test_a_hang_has_an_end(shared_engine, scheduler, monkeypatch):
    shared_engine.prepare(MODEL)
    stopped = child_of(shared_engine)
    session = session_with(shared_engine, babble(10))
    os.kill(stopped, signal.SIGSTOP)
    monkeypatch.setattr(pocketsphinx_process, "_LIMIT_S", 0.1)
    monkeypatch.setattr(pocketsphinx_process, "_LIMIT_PER_S", 0.0)
    with pytest.raises(EngineError, match="no answer in time"):
        session.finish(scheduler.stream())
    assert not is_running(stopped)
    monkeypatch.undo()
    assert hear(shared_engine, scheduler, blip()).text == ""


@installed
@pytest.mark.parametrize("seconds", [0.5, 10.0], ids=["all is sent", "more than the pipe takes"])
def test_cancelling_a_hang(shared_engine, scheduler, seconds):
    shared_engine.prepare(MODEL)
    stream = scheduler.stream()
    session = session_with(shared_engine, babble(seconds))
    stopped = child_of(shared_engine)
    os.kill(stopped, signal.SIGSTOP)
    threading.Timer(0.2, stream.cancel).start()
    with pytest.raises(Cancelled):
        session.finish(stream)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stopped, signal.SIGCONT)
    assert hear(shared_engine, scheduler, blip()).text == ""


@installed
def test_closing_ends_everything(scheduler, caplog):
    engine = PocketsphinxEngine()
    with decoding(engine, scheduler, babble(60)) as (future, _):
        child = child_of(engine)
        (copy,) = children(child)
        engine.close()
        with pytest.raises(EngineError, match="was stopped"):
            future.result(5)
    assert not is_running(child)
    assert child not in children(os.getpid())
    eventually(lambda: not is_running(copy))
    engine.close()
    with pytest.raises(EngineError, match="was stopped"):
        engine.prepare(MODEL)
    assert caplog.records == []


@installed
def test_signals_for_the_whole_service_do_not_reach_the_utterance(shared_engine, scheduler):
    with decoding(shared_engine, scheduler, clip("en_cards_005.wav")) as (future, _):
        child = child_of(shared_engine)
        for number in (signal.SIGINT, signal.SIGTERM):
            for pid in (child, *children(child)):
                os.kill(pid, number)
        assert future.result(60).text == "eight of spades four of clubs seven of hearts"
    assert child_of(shared_engine) == child


@installed
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "decoding"])
def test_the_child_ends_with_a_server_that_is_killed(busy):
    lines = [
        "import sys, threading, time",
        "import numpy as np",
        "from wyoming_rknn.asr.engine import Bias",
        "from wyoming_rknn.asr.pocketsphinx import MODEL, PocketsphinxEngine",
        "from wyoming_rknn.runtime.scheduler import Scheduler",
        "engine = PocketsphinxEngine()",
        "session = engine.open(MODEL, None, Bias())",
        "session.accept(np.random.default_rng(0).standard_normal(960000).astype(np.float32))",
        f"if {busy}: threading.Thread(target=session.finish, args=(Scheduler().stream(),), daemon=True).start()",
        "print(engine._recognizer._child._process.pid, flush=True)",
        "time.sleep(60)",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        child = int(server.stdout.readline())
        copies = []
        if busy:
            eventually(lambda: children(child))
            copies = children(child)
        server.kill()
        eventually(lambda: not any(map(is_running, (child, *copies))))
        assert server.stderr.read() == ""


@installed
def test_nothing_is_left_over(shared_engine, scheduler):
    def held(pid):
        gc.collect()
        return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))

    hear(shared_engine, scheduler, blip())
    child, mine = child_of(shared_engine), os.getpid()
    before = held(child), held(mine), len(children(mine))
    for number in range(50):
        if number % 10:
            hear(shared_engine, scheduler, blip())
        else:
            with decoding(shared_engine, scheduler, babble(5)) as (_, stream):
                stream.cancel()
    # It still gives up the last one.
    hear(shared_engine, scheduler, blip())
    assert child_of(shared_engine) == child
    assert (held(child), held(mine), len(children(mine))) == before
    assert children(child) == []


@installed
def test_a_new_child_leaves_nothing_of_the_old_one(engine, scheduler):
    def held():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), len(children(os.getpid()))

    hear(engine, scheduler, blip())
    before = held()
    for _ in range(2):
        os.kill(child_of(engine), signal.SIGKILL)
        hear(engine, scheduler, blip())
    assert held() == before
    engine.close()
    assert held() == (before[0] - 2, before[1] - 1)


@installed
def test_utterances_at_once_do_not_mix(shared_engine):
    texts = dict([("en_cards_001.wav", "ten of clubs"), ("en_digit_seven.wav", "seven"), WEATHER])
    clips = {name: clip(name) for name in texts}
    # Schedulers of their own, so that nothing but the engine keeps them apart.
    schedulers = [Scheduler() for _ in range(3)]

    def work(job):
        number, name = job
        return name, hear(shared_engine, schedulers[number % 3], clips[name]).text

    with ThreadPoolExecutor(3) as pool:
        for name, text in pool.map(work, enumerate([*texts] * 2)):
            assert text == texts[name]
    assert all(scheduler.close(10) for scheduler in schedulers)


@installed
def test_the_server_goes_on_meanwhile(shared_engine, scheduler):
    with decoding(shared_engine, scheduler, babble(20)) as (future, stream):
        steps, longest = 0, 0.0
        latest = time.monotonic()
        while steps < 200 and not future.done():
            time.sleep(0.001)
            now = time.monotonic()
            longest, latest, steps = max(longest, now - latest), now, steps + 1
        stream.cancel()
    assert steps == 200
    assert longest < 1.0


def test_samples_survive_as_they_are_but_for_their_level():
    pcm = np.random.default_rng(0).integers(-20000, 20000, 16000, np.int16)
    sent = np.frombuffer(speech(from_int16(pcm))[1], "<i2").astype(np.float64)
    scale = sent.std() / pcm.std()
    assert np.abs(sent - (pcm - pcm.mean()) * scale).max() < 1.0
