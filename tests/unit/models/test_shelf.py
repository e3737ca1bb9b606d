import threading
import time

import pytest

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.models.shelf import Shelf


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "model"
    path.write_text("1")
    return Manifest("asr", "plain", "m", {"graph": path}, ("en",), 16000)


class Opener:
    """Reads a model; counts how often."""

    def __init__(self, pause_s=0.0):
        self.count = 0
        self.pause_s = pause_s

    def __call__(self, manifest):
        self.count += 1
        time.sleep(self.pause_s)
        text = manifest.files["graph"].read_text()
        if text == "broken":
            raise ModelInvalid(f"{manifest.name} is broken")
        return [text]


def rewrite(manifest, text):
    manifest.files["graph"].write_text(text)


def test_a_model_is_loaded_once(manifest):
    shelf = Shelf(opener := Opener())
    assert shelf.get("m") is None
    first = shelf.load(manifest)
    assert shelf.load(manifest) is first
    assert shelf.get("m") is first
    assert opener.count == 1


def test_a_model_is_loaded_once_however_many_ask_at_once(manifest):
    shelf = Shelf(opener := Opener(pause_s=0.2))
    threads = [threading.Thread(target=shelf.load, args=(manifest,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opener.count == 1


def test_a_model_is_loaded_anew_when_its_files_change(manifest):
    shelf = Shelf(Opener())
    old = shelf.load(manifest)
    rewrite(manifest, "two")
    assert shelf.get("m") is None
    assert shelf.load(manifest) == ["two"]
    assert old == ["1"]


def test_a_broken_model_is_told_again_without_a_second_look(manifest):
    rewrite(manifest, "broken")
    shelf = Shelf(opener := Opener())
    for _ in range(3):
        with pytest.raises(ModelInvalid, match="m is broken"):
            shelf.load(manifest)
    assert opener.count == 1
    (problem,) = shelf.problems([manifest]).values()
    assert (problem.name, problem.model_kind, problem.path) == ("m", "asr", manifest.files["graph"])


def test_a_mended_model_is_no_problem_any_more(manifest):
    rewrite(manifest, "broken")
    shelf = Shelf(Opener())
    with pytest.raises(ModelInvalid):
        shelf.load(manifest)
    rewrite(manifest, "as good as new")
    assert not shelf.problems([manifest])
    assert shelf.load(manifest) == ["as good as new"]


def test_the_kind_of_error_is_kept(manifest):
    def open_model(manifest):
        raise ModelFileMissing("no file")

    shelf = Shelf(open_model)
    for _ in range(2):
        with pytest.raises(ModelFileMissing):
            shelf.load(manifest)


def test_a_model_that_is_gone_is_forgotten(manifest):
    shelf = Shelf(Opener())
    shelf.load(manifest)
    manifest.files["graph"].unlink()
    assert shelf.get("m") is None
    assert not shelf.problems([])
    assert shelf.clear() == []


def test_clearing_gives_back_what_was_loaded(manifest):
    shelf = Shelf(Opener())
    loaded = shelf.load(manifest)
    assert shelf.clear() == [loaded]
    assert shelf.get("m") is None
