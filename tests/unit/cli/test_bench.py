import json

import pytest

ESPEAK = ("--tts-engine", "espeak-ng", "--repeat", "1")


def test_a_table_is_printed(run):
    code, out, err = run("bench", "tts", *ESPEAK)
    assert (code, err) == (0, "")
    heading, *rows = out.decode().splitlines()
    assert heading.split() == ["voice", "text", "load", "first", "audio", "total", "audio", "rtf"]
    assert [row.split()[:2] for row in rows] == [["espeak-en-us", "short"], ["espeak-en-us", "long"]]


def test_json_holds_the_same(run):
    results = json.loads(run("bench", "tts", "--json", "--language", "de", *ESPEAK)[1])
    assert [(result["engine"], result["voice"], result["text"]) for result in results] == [
        ("espeak-ng", "espeak-de", "short"),
        ("espeak-ng", "espeak-de", "long"),
    ]
    for result in results:
        assert 0 < result["first_audio_s"] <= result["total_s"]
        assert result["audio_s"] > 0.5
        assert result["rtf"] == pytest.approx(result["total_s"] / result["audio_s"])


def test_an_unknown_voice_is_one_line(run, one_line):
    code, _, err = run("bench", "tts", "--voice", "nobody", *ESPEAK)
    assert code == 1
    assert "voice 'nobody' is not installed" in one_line(err)
