import json
import shutil
from pathlib import Path

import pytest

from wyoming_rknn.convert.piper import convert_voice
from wyoming_rknn.convert.recipes import recipe_for
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.convert.sensevoice import convert_sensevoice
from wyoming_rknn.errors import ConversionError, ModelFileMissing, ModelInvalid, UsageError

GOLDEN = Path(__file__).parents[2] / "golden" / "sensevoice"
CONFIG = {"audio": {"sample_rate": 16000}, "espeak": {"voice": "en"}, "phoneme_id_map": {"_": [0], "^": [1], "$": [2]}}


@pytest.fixture
def sense(tmp_path):
    for name in ("model.onnx", "am.mvn", "tokens.txt"):
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def voice(tmp_path):
    path = tmp_path / "voice.onnx"
    path.write_bytes(b"input_lengths scales")
    Path(f"{path}.json").write_text(json.dumps(CONFIG))
    return path


def test_a_recogniser(sense):
    assert recipe_for(sense).convert is recipe_for(sense / "model.onnx").convert is convert_sensevoice


def test_a_voice(voice):
    assert recipe_for(voice).convert is recipe_for(voice.parent).convert is convert_voice


def test_both_in_one_folder(sense, voice):
    assert recipe_for(voice).convert is convert_voice
    assert recipe_for(sense / "model.onnx").convert is convert_sensevoice


@pytest.mark.parametrize("name", ["am.mvn", "tokens.txt"])
def test_what_a_recogniser_lacks_is_told(sense, name):
    (sense / name).unlink()
    for model in (sense, sense / "model.onnx"):
        # Without am.mvn nothing but the shapes of the graph speaks for SenseVoice.
        with pytest.raises(ModelFileMissing, match=name):
            recipe_for(model)


def test_what_a_voice_lacks_is_told(voice):
    Path(f"{voice}.json").unlink()
    for model in (voice, voice.parent):
        with pytest.raises(ModelFileMissing, match=r"put voice\.onnx\.json beside it"):
            recipe_for(model)


def test_what_is_nothing_is_told(tmp_path):
    with pytest.raises(ModelInvalid, match="holds no Piper voice and no SenseVoice model"):
        recipe_for(tmp_path)
    with pytest.raises(ModelFileMissing, match="does not exist"):
        recipe_for(tmp_path / "gone")


def test_wrong_use_is_told_before_any_work(sense, voice, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    check = recipe_for(voice).check
    for target, out, options, told in (
        ("rk3587", tmp_path / "out", {}, "did you mean rk3588"),
        ("rk3588", used, {}, r"holds notes\.txt"),
        ("rk3588", tmp_path / "out", {"frames": 0}, "--frames 0 must be"),
        ("rk3588", tmp_path / "out", {"seconds": (3,)}, "--seconds is for recognisers"),
    ):
        with pytest.raises(UsageError, match=told):
            check(voice, target, out, ConvertOptions(**options))
    check(voice, "rk3588", tmp_path / "out", ConvertOptions())
    check = recipe_for(sense / "model.onnx").check
    for out, options, told in (
        (used, {}, r"holds notes\.txt"),
        (tmp_path / "out", {"frames": 32}, "--frames is for voices"),
        (tmp_path / "out", {"seconds": (31,)}, "--seconds 31 must be"),
    ):
        with pytest.raises(UsageError, match=told):
            check(sense / "model.onnx", "rk3588", out, ConvertOptions(**options))
    check(sense / "model.onnx", "rk3588", tmp_path / "out", ConvertOptions())
    shutil.copyfile(GOLDEN / "model_quant.onnx", sense / "model.onnx")
    with pytest.raises(ConversionError, match="8 bits"):
        check(sense / "model.onnx", "rk3588", tmp_path / "out", ConvertOptions())
