import gc
import threading
import time
import weakref
from dataclasses import dataclass, replace

import pytest

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.manifest import Manifest
from wyoming_rknn.models.shelf import WORKING_BYTES, Shelf, footprint
from wyoming_rknn.runtime.memory import Memory

MB = 1 << 20


@dataclass(eq=False)
class Model:
    text: str


@pytest.fixture
def make_manifest(tmp_path):
    def make(name):
        path = tmp_path / name
        path.write_text("1")
        return Manifest("asr", "plain", name, {"graph": path}, ("en",), 16000)

    return make


@pytest.fixture
def manifest(make_manifest):
    return make_manifest("m")


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
        return Model(text)


def rewrite(manifest, text):
    manifest.files["graph"].write_text(text)


def shelf_of(budget_mb, opener, **options):
    """Return a shelf whose models take 1 MB each, and its memory."""
    memory = Memory(budget_mb * MB, **options)
    return Shelf(opener, memory, lambda _manifest: MB), memory


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
    assert shelf.load(manifest).text == "two"
    assert old.text == "1"


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
    assert shelf.load(manifest).text == "as good as new"


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


def test_the_least_recently_used_gives_way(make_manifest):
    manifests = {name: make_manifest(name) for name in "abcd"}
    shelf, memory = shelf_of(3, opener := Opener())
    for name in "abc":
        shelf.load(manifests[name])
    assert shelf.get("a") is not None
    shelf.load(manifests["d"])
    assert memory.names == ["c", "a", "d"]
    assert shelf.get("b") is None
    assert memory.used_bytes == 3 * MB
    shelf.load(manifests["b"])
    assert memory.names == ["a", "d", "b"]
    assert opener.count == 5


def test_what_gave_way_is_freed_without_the_collector(make_manifest):
    shelf, _ = shelf_of(1, Opener())
    gc.disable()
    try:
        freed = weakref.ref(shelf.load(make_manifest("a")))
        assert freed() is not None
        shelf.load(make_manifest("b"))
        assert freed() is None
    finally:
        gc.enable()


def test_a_model_in_use_stays_and_others_give_way(make_manifest):
    shelf, memory = shelf_of(2, opener := Opener())
    used = shelf.load(manifest := make_manifest("a"))
    for name in "bcde":
        shelf.load(make_manifest(name))
        assert memory.used_bytes == 2 * MB
    assert memory.names == ["a", "e"]
    assert shelf.load(manifest) is used
    assert opener.count == 5


def test_a_model_in_use_that_was_let_go_is_found_again(make_manifest, caplog):
    shelf, memory = shelf_of(1, opener := Opener())
    one, two = make_manifest("one"), make_manifest("two")
    used, other = shelf.load(one), shelf.load(two)
    assert memory.names == ["two"]
    assert memory.used_bytes == 2 * MB
    assert shelf.get("one") is used
    assert shelf.load(one) is used
    assert memory.names == ["one"]
    assert shelf.load(two) is other
    assert opener.count == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "models in use take 2 MB, more than the 1 MB of --memory-budget; raise it, or use fewer at once"
    ]
    # What is over the budget goes as soon as it is idle; the last one used stays.
    del used, other
    assert memory.used_bytes == MB
    assert memory.names == ["two"]


def test_a_model_larger_than_the_budget_is_loaded_and_stays_alone(make_manifest):
    shelf, memory = shelf_of(0.5, opener := Opener())
    one = make_manifest("one")
    shelf.load(one)
    assert shelf.get("one") is shelf.load(one)
    assert opener.count == 1
    shelf.load(make_manifest("two"))
    assert memory.names == ["two"]
    assert memory.used_bytes == MB


def test_a_model_that_cannot_be_loaded_takes_nothing(make_manifest):
    shelf, memory = shelf_of(2, Opener())
    rewrite(broken := make_manifest("broken"), "broken")
    with pytest.raises(ModelInvalid):
        shelf.load(broken)
    assert memory.used_bytes == 0


def test_room_is_made_before_a_model_is_loaded(make_manifest):
    alive = []

    def open_model(manifest):
        gc.collect()
        alive.append([name for name in memory.names if name != manifest.name])
        return Model(manifest.name)

    shelf, memory = shelf_of(2, open_model)
    for name in "abcd":
        shelf.load(make_manifest(name))
    assert alive == [[], ["a"], ["b"], ["c"]]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("another")])
def test_a_model_whose_files_vanish_or_change_is_let_go_at_the_next_look(manifest, change):
    shelf, memory = shelf_of(5, Opener())
    freed = weakref.ref(shelf.load(manifest))
    change(manifest.files["graph"])
    shelf.problems([manifest])
    assert freed() is None
    assert memory.used_bytes == 0


def test_a_model_in_use_whose_files_vanish_counts_until_it_is_done_with(manifest):
    shelf, memory = shelf_of(5, Opener())
    used = shelf.load(manifest)
    manifest.files["graph"].unlink()
    shelf.problems([])
    assert (memory.names, memory.used_bytes) == ([], MB)
    del used
    assert memory.used_bytes == 0


def test_a_model_whose_files_vanish_while_it_is_loaded_is_not_kept(manifest):
    opening, go_on = threading.Event(), threading.Event()

    def open_model(manifest):
        opening.set()
        assert go_on.wait(10)
        return Model("late")

    shelf, memory = shelf_of(5, open_model)
    thread = threading.Thread(target=shelf.load, args=(manifest,))
    thread.start()
    assert opening.wait(10)
    assert shelf.problems([]) == {}
    go_on.set()
    thread.join()
    assert memory.used_bytes == 0


def test_looking_does_not_wait_for_loading(make_manifest):
    go_on = threading.Event()

    def open_model(manifest):
        assert manifest.name == "quick" or go_on.wait(10)
        return Model(manifest.name)

    shelf, memory = shelf_of(1, open_model)
    slow, quick = make_manifest("slow"), make_manifest("quick")
    thread = threading.Thread(target=shelf.load, args=(slow,))
    thread.start()
    try:
        assert shelf.problems([slow, quick]) == {}
        assert shelf.get("slow") is None
        assert shelf.load(quick).text == "quick"
        assert memory.used_bytes >= MB
    finally:
        go_on.set()
        thread.join()
    # Both could not be had at once: what was loaded last stays.
    assert memory.names == ["slow"]


def test_an_idle_model_goes_and_comes_back(make_manifest):
    shelf, memory = shelf_of(9, opener := Opener(), idle_s=0.1)
    one = make_manifest("one")
    shelf.load(one)
    wait_until(lambda: memory.used_bytes == 0)
    assert shelf.get("one") is None
    assert shelf.load(one).text == "1"
    assert opener.count == 2


def test_a_model_in_use_is_not_idle(make_manifest):
    shelf, memory = shelf_of(9, opener := Opener(), idle_s=0.05)
    one = make_manifest("one")
    used = shelf.load(one)
    time.sleep(0.4)
    assert memory.names == ["one"]
    assert shelf.load(one) is used
    del used
    wait_until(lambda: memory.used_bytes == 0)
    assert opener.count == 1


def test_many_threads(make_manifest):
    manifests = [make_manifest(f"m{number}") for number in range(8)]
    shelf, memory = shelf_of(3, Opener(pause_s=0.001), idle_s=0.005)
    failures = []

    def work(seed):
        try:
            for step in range(60):
                manifest = manifests[(step * seed + step // 7) % len(manifests)]
                model = shelf.get(manifest.name) or shelf.load(manifest)
                assert model.text == "1"
                if step % 5 == 0:
                    shelf.problems(manifests if step % 10 else manifests[1:])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    shelf.load(manifests[0])
    assert memory.used_bytes <= 3 * MB
    wait_until(lambda: memory.used_bytes == 0)


def test_the_footprint_is_of_graphs_only(tmp_path):
    sizes = {"encoder": 10, "decoder": 20, "weights-1": 5, "config": 7, "golden": 100, "tokens": 9, "npu-decoder": 40}
    files = {}
    for role, size in sizes.items():
        files[role] = tmp_path / f"{role}{'.rknn' if role.startswith('npu') else '.onnx'}"
        files[role].write_bytes(bytes(size))
    manifest = Manifest("tts", "plain", "m", files, ("en",), 16000)
    assert footprint(manifest) == 2 * 35 + 40 + WORKING_BYTES
    assert footprint(manifest, npu=False) == 2 * 35 + WORKING_BYTES
    language = {"decoder": "a.rkllm", "embeddings": "b.npy", "tokenizer-vocab": "c.json"}
    for name, size in (("a.rkllm", 50), ("b.npy", 30), ("c.json", 8)):
        (tmp_path / name).write_bytes(bytes(size))
    assert footprint(replace(manifest, files={role: tmp_path / name for role, name in language.items()})) == 80
    on_npu = replace(manifest, files={role: files[role] for role in ("npu-decoder", "config")})
    assert footprint(on_npu) == 40
    files["encoder"].unlink()
    assert footprint(manifest) == 2 * 25 + 40 + WORKING_BYTES


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
