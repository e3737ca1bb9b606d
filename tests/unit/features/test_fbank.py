import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wyoming_rknn.audio import from_int16
from wyoming_rknn.errors import ModelInvalid
from wyoming_rknn.features.fbank import Cmvn, Fbank, stack_frames

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "fbank"
DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", ROOT.parent / "shared" / "data"))
TOLERANCE = 1e-3
"""What a correct front end may differ by; float32 accounts for a third of that."""
SILENCE = -15.942385
"""The logarithm of 2^-23."""


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "features.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def cmvn():
    return Cmvn.from_kaldi((GOLDEN / "am.mvn").read_text(encoding="utf-8"))


def fbank(samples, pieces=()):
    """Return the features of audio that comes in pieces of these sizes, the rest at once."""
    features = Fbank()
    for size in pieces:
        features.accept(samples[:size])
        samples = samples[size:]
    features.accept(samples)
    return features.frames()


def waveform(count, seed=0):
    return (np.random.default_rng(seed).standard_normal(count) * 0.1).astype(np.float32)


def distance(ours, theirs):
    frames = min(len(ours), len(theirs))
    return float(np.abs(ours[:frames].astype(np.float64) - theirs[:frames]).max())


WINDOWS = {
    "hamming": 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399),
    "hann": 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399),
    "povey": (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85,
    "periodic hamming": 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400),
    "rectangular": np.ones(400),
}


def recipe(
    pcm,
    window="hamming",
    scale=1.0,
    dither=0.0,
    remove_dc=True,
    preemphasis=0.97,
    snip_edges=True,
    points=512,
    power=2,
    low_hz=20.0,
    floor=2.0**-23,
):
    """Compute Kaldi's filter banks by its formulas, in float64; with an argument other than these, wrongly."""
    samples = pcm.astype(np.float64) * scale
    if snip_edges:
        starts = np.arange(1 + (len(samples) - 400) // 160) * 160
    else:
        starts = np.arange((len(samples) + 80) // 160) * 160 + 80 - 200
    samples = np.pad(samples, 400, mode="symmetric")
    frames = samples[starts[:, None] + 400 + np.arange(400)]
    frames = frames + dither * np.random.default_rng(0).standard_normal(frames.shape)
    if remove_dc:
        frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
    frames = (frames - preemphasis * before) * WINDOWS[window]
    spectrum = np.abs(np.fft.rfft(frames, points))[:, : points // 2] ** power

    def mel(hz):
        return 1127 * np.log(1 + hz / 700)

    edges = np.linspace(mel(low_hz), mel(8000.0), 82)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = mel(np.arange(points // 2) * 16000 / points)
    triangles = np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0, None)
    return np.log(np.maximum(spectrum @ triangles.T, floor))


def test_features_are_those_of_funasr(golden, cmvn):
    features = fbank(from_int16(golden["pcm"]))
    assert (features.dtype, features.shape) == (np.float32, (55, 80))
    assert distance(features, golden["fbank"]) < TOLERANCE
    stacked = stack_frames(features)
    assert (stacked.dtype, stacked.shape) == (np.float32, (10, 560))
    assert distance(stacked, golden["stacked"]) < TOLERANCE
    normalised = cmvn.apply(stacked)
    assert (normalised.dtype, normalised.shape) == (np.float32, (10, 560))
    assert distance(normalised, golden["normalised"]) < TOLERANCE


def test_features_follow_kaldis_formulas(golden):
    assert distance(recipe(golden["pcm"]), golden["fbank"]) < TOLERANCE
    assert distance(recipe(golden["pcm"]), fbank(from_int16(golden["pcm"]))) < TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": "povey"},
        {"window": "hann"},
        {"window": "periodic hamming"},
        {"window": "rectangular"},
        {"scale": 1 / 32768},
        {"dither": 1.0},
        {"dither": 3e-5},
        {"remove_dc": False},
        {"preemphasis": 0.0},
        {"preemphasis": 0.95},
        {"snip_edges": False},
        {"points": 400},
        {"power": 1},
        {"low_hz": 0.0},
        {"low_hz": 64.0},
        {"floor": 1e-10},
        {"floor": 1.0},
    ],
    ids=lambda wrong: " ".join(f"{key} {value}" for key, value in wrong.items()),
)
def test_the_golden_tells_a_wrong_front_end(golden, wrong):
    assert distance(recipe(golden["pcm"], **wrong), golden["fbank"]) > 10 * TOLERANCE


def test_the_golden_tells_a_missing_step_after_the_filter_banks(golden):
    features, stacked = golden["fbank"], golden["stacked"]
    unpadded = features[np.clip(np.arange(10)[:, None] * 6 + np.arange(7), 0, 54)].reshape(10, 560)
    assert distance(unpadded, stacked) > 10 * TOLERANCE
    dropped = stacked[: (55 - 7) // 6 + 1]
    assert len(dropped) < len(stacked)
    zeros = np.pad(features, ((3, 3), (0, 0)))[np.arange(10)[:, None] * 6 + np.arange(7)].reshape(10, 560)
    assert distance(zeros[:1], stacked[:1]) > 10 * TOLERANCE
    assert distance(zeros[-1:], stacked[-1:]) > 10 * TOLERANCE
    assert distance(stacked, golden["normalised"]) > 10 * TOLERANCE


def test_silence_stands_on_the_floor(golden):
    silence = fbank(np.zeros(1600, np.float32))
    assert silence.shape == (8, 80)
    assert np.all(np.abs(silence - SILENCE) < 1e-5)
    assert np.all(np.abs(golden["fbank"][:9] - SILENCE) < 1e-5)


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (1, 0), (399, 0), (400, 1), (559, 1), (560, 2), (719, 2), (720, 3), (16000, 98)]
)
def test_only_whole_frames_count(samples, frames):
    assert fbank(waveform(samples)).shape == (frames, 80)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.integers(0, 700), st.just(160), st.just(1)), max_size=40))
def test_features_do_not_depend_on_the_pieces(pieces):
    samples = waveform(9000)
    assert np.array_equal(fbank(samples, pieces), fbank(samples))


def test_five_minutes_in_pieces_are_five_minutes_at_once():
    samples = np.tile(waveform(16_000 * 30), 10)
    features = Fbank()
    early = None
    for begin in range(0, samples.size, 160):
        features.accept(samples[begin : begin + 160])
        if begin == 16_000:
            early = features.frames()
            kept = early.copy()
    assert features.frames().shape == (29_998, 80)
    assert np.array_equal(features.frames(), fbank(samples))
    # What was handed out before the buffer grew is still what it was.
    assert np.array_equal(early, kept)
    assert np.array_equal(early, features.frames()[: len(early)])


def test_samples_are_scaled_by_32768(golden):
    # 32767 makes a difference of 6e-5 everywhere, less than one number may differ by, but not their mean.
    difference = fbank(from_int16(golden["pcm"])).astype(np.float64) - golden["fbank"]
    assert abs(difference[20:].mean()) < 1e-5


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured on Linux")
def test_five_minutes_take_the_memory_of_their_features():
    code = (
        "import numpy as np; from pathlib import Path; from wyoming_rknn.features.fbank import Fbank\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1])\n"
        "second = np.zeros(16_000, np.float32); Fbank().accept(second); features = Fbank(); before = resident()\n"
        "for _ in range(300): features.accept(second)\n"
        "print(resident() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    grown = int(done.stdout) * os.sysconf("SC_PAGE_SIZE")
    assert grown < 1.5 * 29_998 * 80 * 4


def test_asking_again_copies_nothing_and_nobody_can_write():
    features = Fbank()
    features.accept(waveform(4000))
    assert np.shares_memory(features.frames(), features.frames())
    with pytest.raises(ValueError, match="read-only"):
        features.frames()[0, 0] = 0
    features.accept(waveform(4000))
    assert len(features.frames()) == 48


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 6, 7, 12, 13, 54, 55, 100])
def test_rows_are_centred_on_every_sixth_frame(frames):
    features = np.repeat(np.arange(frames, dtype=np.float32)[:, None], 2, axis=1)
    rows = stack_frames(features)
    assert rows.shape == (-(-frames // 6), 14)
    for number, row in enumerate(rows):
        expected = [min(max(6 * number + offset, 0), frames - 1) for offset in range(-3, 4)]
        assert row.reshape(7, 2)[:, 0].tolist() == expected


def test_other_windows_stack_too():
    features = np.arange(5, dtype=np.float32)[:, None]
    assert stack_frames(features, 3, 2).tolist() == [[0, 0, 1], [1, 2, 3], [3, 4, 4]]
    assert stack_frames(features, 1, 1).tolist() == features.tolist()


def mvn(shifts, scales, coefficient="<LearnRateCoef> 0 "):
    def component(name, values):
        return f"<{name}> {len(values)} {len(values)} \n{coefficient}[ {' '.join(map(str, values))} ]\n"

    return f"<Nnet> \n<Splice> 560 560\n[ 0 ]\n{component('AddShift', shifts)}{component('Rescale', scales)}</Nnet> \n"


SHIFTS = [0.5 - number / 100 for number in range(560)]
SCALES = [1 + number / 1000 for number in range(560)]


@pytest.mark.parametrize("coefficient", ["<LearnRateCoef> 0 ", "<LearnRateCoef> 1.5\n", ""])
def test_normalisation_is_read_from_kaldis_text(coefficient):
    cmvn = Cmvn.from_kaldi(mvn(SHIFTS, SCALES, coefficient))
    assert cmvn.shift.dtype == cmvn.scale.dtype == np.float32
    assert np.array_equal(cmvn.shift, np.array(SHIFTS, np.float32))
    assert np.array_equal(cmvn.scale, np.array(SCALES, np.float32))
    rows = waveform(3 * 560).reshape(3, 560)
    expected = (rows.astype(np.float64) + SHIFTS) * SCALES
    assert cmvn.apply(rows).dtype == np.float32
    assert distance(cmvn.apply(rows), expected) < 1e-5
    assert cmvn.apply(rows[:0]).shape == (0, 560)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no complete <AddShift>"),
        ('{"shift": [1, 2]}', "has no complete <AddShift>"),
        (mvn(SHIFTS, SCALES).replace("Rescale", "Scale"), "has no complete <Rescale>"),
        (mvn(SHIFTS, SCALES)[:-100], "has no complete <Rescale>"),
        (mvn(SHIFTS, SCALES)[:3000], "has no complete <AddShift>"),
        (mvn([*SHIFTS[:-1], "many"], SCALES), "something else than numbers in <AddShift>: .*'many'"),
        (mvn(SHIFTS[1:], SCALES), "must hold 560 shifts, not 559"),
        (mvn(SHIFTS, SCALES[:80]), "must hold 560 scales, not 80"),
        (mvn([], SCALES), "must hold 560 shifts, not 0"),
        (mvn(["nan", *SHIFTS[1:]], SCALES), "shifts that are no finite numbers"),
        (mvn(SHIFTS, ["1e39", *SCALES[1:]]), "scales that are no finite numbers"),
    ],
)
def test_a_broken_normalisation_is_refused(text, problem):
    with pytest.raises(ModelInvalid, match=rf"am\.mvn.*{problem}.*published with the model$"):
        Cmvn.from_kaldi(text)


def test_a_normalisation_has_as_many_scales_as_shifts():
    numbers = np.ones(560, np.float32)
    for shift, scale in ((numbers[:1], numbers), (numbers, numbers[:1]), (numbers[None], numbers)):
        with pytest.raises(ModelInvalid, match=r"am\.mvn .*neg_mean and inv_stddev.* must hold 560"):
            Cmvn(shift, scale)


def test_a_published_normalisation_is_read():
    path = DATA / "asr" / "sensevoice-overfit" / "am.mvn"
    if not path.is_file():
        pytest.skip("no test data; WYOMING_RKNN_TEST_DATA names the folder that has it")
    text = path.read_text(encoding="utf-8")
    lines = [line.split()[3:-1] for line in text.splitlines() if line.startswith("<LearnRateCoef>")]
    cmvn = Cmvn.from_kaldi(text)
    assert np.array_equal(cmvn.shift, np.array(lines[0], np.float64).astype(np.float32))
    assert np.array_equal(cmvn.scale, np.array(lines[1], np.float64).astype(np.float32))
    assert cmvn.shift[0] == np.float32(-8.311879)


def test_speech_has_the_features_of_the_formulas():
    path = DATA / "speech" / "en_whats_the_weather_like.wav"
    if not path.is_file():
        pytest.skip("no test data; WYOMING_RKNN_TEST_DATA names the folder that has it")
    soundfile = pytest.importorskip("soundfile")
    pcm, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == 16_000
    assert distance(fbank(from_int16(pcm)), recipe(pcm)) < TOLERANCE
