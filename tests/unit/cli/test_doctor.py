import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from npu import stand_in, stand_in_lite
from npu.building import build
from onnx import TensorProto, helper

from wyoming_rknn import cli
from wyoming_rknn.cli import doctor
from wyoming_rknn.cli.doctor import computing, machine, verify
from wyoming_rknn.cli.doctor.lines import Line, told
from wyoming_rknn.errors import AcceleratorError, ModelInvalid, ModelNotFound, UsageError
from wyoming_rknn.npu.selftest import Golden, Verdict, Verdicts, golden_path
from wyoming_rknn.runtime import rknn_library, rknn_lite
from wyoming_rknn.runtime.accelerator import Versions
from wyoming_rknn.runtime.board import Board, DeviceNode
from wyoming_rknn.runtime.cpus import Cpu
from wyoming_rknn.runtime.graph import TensorSpec
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings

NODE = Path("/dev/dri/renderD129")
ROCK_5B = Board(
    soc="rk3588",
    model="Radxa ROCK 5B",
    npu_cores=3,
    has_core_masks=True,
    driver="0.9.8",
    devices=(DeviceNode(NODE),),
    cpus=tuple(Cpu(number, 1024 if number > 3 else 414, "performance") for number in range(8)),
    big_cpus=(4, 5, 6, 7),
    soc_source="/proc/device-tree/compatible",
    npu_governor="rknpu_ondemand",
)
ODROID_M1 = replace(ROCK_5B, soc="rk3568", model="Hardkernel ODROID-M1", npu_cores=1, has_core_masks=False)
PC = Board(cpus=(Cpu(0, None, "powersave"), Cpu(1, None, "powersave")))
ALL_CORES = os.sched_getaffinity(0)
LIBRARY = Versions("2.3.2 (429f97ae6b@2025-04-09T09:09:27)", "0.9.8")
SHAPE = (1, 4, 6)
Z = np.linspace(-1, 1, 24, dtype=np.float32).reshape(SHAPE)


class Accelerator:
    """An NPU whose graphs give twice what they take, unless told otherwise."""

    def __init__(self, answer=lambda z: 2 * z, cores=3, versions=LIBRARY, name="rknn"):
        self.name = name
        self.cores = cores
        self.answer = answer
        self.versions = Versions(versions.library, "")
        self.load_failure = ""
        self.open = 0
        self.runs = 0
        self._versions = versions

    def load(self, path, *, timeout_s=2.0, check_finite=True):
        # As librknnrt does, it knows its driver from the first graph on.
        self.versions = self._versions
        self.open += 1
        return Graph(self)

    def close(self):
        pass


class Graph:
    inputs = (TensorSpec("z", SHAPE, np.dtype(np.float32)), TensorSpec("n", (2,), np.dtype(np.int32)))
    outputs = (TensorSpec("y", SHAPE, np.dtype(np.float32)),)

    def __init__(self, accelerator):
        self.accelerator = accelerator

    def run(self, feeds, cancellation=None):
        self.accelerator.runs += 1
        assert {name: (array.shape, array.dtype) for name, array in feeds.items()} == {
            "z": (SHAPE, np.float32),
            "n": ((2,), np.int32),
        }
        return {"y": self.accelerator.answer(feeds["z"])}

    def close(self):
        self.accelerator.open -= 1


def failing(error):
    def answer(_):
        raise error

    return answer


def graph_bytes():
    """Return y = 2 z, which does not look at n."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["f"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Mul", ["z", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "nothing"], ["y"]),
        ],
        "double",
        [value("z", TensorProto.FLOAT, SHAPE), value("n", TensorProto.INT32, [2])],
        [value("y", TensorProto.FLOAT, SHAPE)],
        [
            helper.make_tensor("two", TensorProto.FLOAT, [], [2]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def voice(tmp_path):
    """Return a function that installs a voice in Paroli's layout, and returns its folder."""

    def voice(name="sano", golden=True, spare=True, **container):
        folder = tmp_path / "voices" / name
        folder.mkdir(parents=True)
        (folder / "encoder.onnx").write_bytes(b"input_lengths scales")
        if spare:
            (folder / "decoder.onnx").write_bytes(b"decoder")
        config = {
            "audio": {"sample_rate": 22050},
            "espeak": {"voice": "en-us"},
            "phoneme_type": "espeak",
            "num_symbols": 3,
            "num_speakers": 1,
            "phoneme_id_map": {"_": [0], "^": [1], "$": [2]},
            "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        }
        (folder / "config.json").write_text(json.dumps(config))
        graph = stand_in.write(folder / "decoder.rknn", graph_bytes(), **container)
        if golden:
            Golden({"z": Z, "n": np.ones(2, np.int32)}, {"y": 2 * Z}, 45.0).write(golden_path(graph))
        return folder

    return voice


@pytest.fixture
def settings(tmp_path):
    """Return a function that makes settings: the models below this test's folder."""

    def settings(**kwargs):
        (tmp_path / "voices").mkdir(exist_ok=True)
        return Settings(**({"data_dir": (tmp_path / "voices",), "cache_dir": tmp_path / "derived"} | kwargs))

    return settings


def on(board, accelerator=None, threads=1, cpus=(), refusals=()):
    return Runtimes(board, accelerator, threads, cpus, refusals)


def only(lines):
    (line,) = lines
    return line


def test_a_fix_follows_the_semicolon():
    assert told("board", "warn", "it is cold; heat it; or dress") == Line(
        "board", "warn", "it is cold", "heat it; or dress"
    )
    assert told("board", "fail", "it is cold", "heat it") == Line("board", "fail", "it is cold", "heat it")
    assert told("board", "ok", "it is warm; enjoy", "heat it") == Line("board", "ok", "it is warm; enjoy")


def test_program(settings):
    line = only(machine.program(settings(), on(PC)))
    assert line.state == "ok"
    assert line.text.startswith("wyoming-rknn ")
    assert "Python 3." in line.text


@pytest.mark.parametrize(
    ("board", "line"),
    [
        (ROCK_5B, Line("board", "ok", "Radxa ROCK 5B: rk3588, as /proc/device-tree/compatible says")),
        (
            PC,
            Line(
                "board",
                "ok",
                "a machine without a name: no Rockchip chip with an NPU that is known, the CPU computes",
            ),
        ),
        (
            replace(PC, soc_unknown="rk3399", soc_source="--soc"),
            Line(
                "board",
                "fail",
                "'rk3399', as --soc says, is no chip with an NPU that is known",
                "name one of rk3588, rk3576, rk3568, rk3566, rk3562, rv1126b, or leave --soc unset",
            ),
        ),
        (
            replace(ROCK_5B, soc=None, npu_cores=0, soc_source=""),
            Line(
                "board",
                "warn",
                "Radxa ROCK 5B: there is an NPU, but its chip is not known",
                "name the chip with --soc or WYOMING_RKNN_SOC: one of rk3588, rk3576, rk3568, rk3566, rk3562, rv1126b",
            ),
        ),
        (
            replace(ODROID_M1, model=None, soc_source="/sys/class/drm/renderD129/device/uevent"),
            Line(
                "board",
                "warn",
                "a machine without a name: rk3568 or rk3566, whose NPUs are alike; taken for an rk3568",
                "name the chip with --soc or WYOMING_RKNN_SOC, for models are made for one",
            ),
        ),
    ],
)
def test_boards(settings, board, line):
    assert only(machine.board(settings(), on(board))) == line


def test_a_pc_has_no_npu_to_speak_of(settings):
    assert list(machine.npu(settings(), on(PC))) == []
    assert list(machine.driver(settings(), on(PC))) == []


def test_an_npu_that_may_be_used(settings):
    assert list(machine.npu(settings(), on(ROCK_5B))) == [
        Line("npu", "ok", "3 cores, governor rknpu_ondemand"),
        Line("device", "ok", f"{NODE} may be used"),
    ]
    line = next(machine.npu(settings(), on(replace(ODROID_M1, npu_governor=None))))
    assert line == Line("npu", "ok", "1 core")


def test_an_npu_that_is_slow(settings):
    line = next(machine.npu(settings(), on(replace(ROCK_5B, npu_governor="powersave"))))
    assert (line.state, line.fix) == ("warn", "as root: echo performance | tee /sys/class/devfreq/*npu*/governor")


@pytest.mark.parametrize(
    ("change", "text", "fix"),
    [
        ({}, "the kernel shows no device of the RKNPU driver", "which has the rknpu driver"),
        (
            {"container": "add-on"},
            "no device of the RKNPU driver is seen in this container",
            "kernel on the host, 5.10",
        ),
        ({"has_rocket": True}, "the kernel drives the NPU with rocket, which librknnrt cannot use", "5.10 or 6.1"),
        (
            {"devices": (DeviceNode(NODE, False, "must not be opened by this user; add the user to the group"),)},
            f"{NODE} must not be opened by this user",
            "add the user to the group",
        ),
    ],
)
def test_an_npu_that_cannot_be_reached(settings, change, text, fix):
    board = replace(ROCK_5B, **({"devices": ()} | change))
    _, line = machine.npu(settings(), on(board))
    assert (line.check, line.state, line.text) == ("device", "warn", text)
    assert fix in line.fix
    # Who wants the CPU needs no device.
    assert len(list(machine.npu(settings(runtime="onnx"), on(board)))) == 1


def test_drivers(settings):
    assert only(machine.driver(settings(), on(ROCK_5B))) == Line("driver", "ok", "0.9.8")
    line = only(machine.driver(settings(), on(replace(ROCK_5B, driver="0.8.2"))))
    assert line == Line("driver", "warn", "0.8.2 is older than 0.9.6", "update the kernel of the board")
    line = only(machine.driver(settings(), on(replace(ROCK_5B, driver=None))))
    assert (line.state, "root" in line.text) == ("ok", True)
    # What the library says comes from the driver itself.
    (accelerator := Accelerator()).load(NODE)
    assert only(machine.driver(settings(), on(replace(ROCK_5B, driver="0.1.0"), accelerator))).text == "0.9.8"


def test_cores(settings):
    line = next(machine.cpu(settings(), on(PC, threads=1)))
    assert line.state == "ok"
    assert line.text == f"{len(ALL_CORES)} of 2 cores; 1 thread computes on all of them"
    number = min(ALL_CORES)
    board = replace(ROCK_5B, big_cpus=(number, 7))
    line = next(machine.cpu(settings(), on(board, threads=1, cpus=(number,))))
    assert line.state == "ok"
    assert line.text.endswith(f" cores, fast ones {number},7; 1 thread computes on cores {number}")


def test_a_process_that_is_kept_from_the_fast_cores(settings):
    line = next(machine.cpu(settings(), on(replace(ROCK_5B, big_cpus=(5000, 5001)))))
    assert (line.check, line.state) == ("cpu", "warn")
    assert "this process may use slow cores only" in line.text
    assert line.fix == "let it use 5000-5001: CPUAffinity of the systemd unit, --cpuset-cpus of the container"


def test_more_threads_than_cores(settings):
    line = next(machine.cpu(settings(), on(PC, threads=9, cpus=(0,))))
    assert (line.state, line.fix) == ("warn", "--threads 1, or leave it unset")
    assert "9 threads compute on cores 0, more threads than cores" in line.text


@pytest.mark.parametrize(
    ("board", "governors", "line"),
    [
        (ROCK_5B, {}, Line("governor", "ok", "performance on the fast cores")),
        (ROCK_5B, {0: "powersave"}, Line("governor", "ok", "performance on the fast cores")),
        (PC, {}, Line("governor", "ok", "powersave")),
        (
            ROCK_5B,
            {4: "ondemand", 5: "ondemand"},
            Line(
                "governor",
                "warn",
                "ondemand and performance on the fast cores: the first words come late",
                "as root: echo performance | tee /sys/devices/system/cpu/cpu{4,5}/cpufreq/scaling_governor",
            ),
        ),
        (
            replace(ODROID_M1, cpus=(Cpu(0, 1024, "powersave"),), big_cpus=()),
            {},
            Line(
                "governor",
                "warn",
                "powersave: the first words come late",
                "as root: echo performance | tee /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            ),
        ),
    ],
)
def test_governors(settings, board, governors, line):
    cpus = tuple(replace(cpu, governor=governors.get(cpu.number, cpu.governor)) for cpu in board.cpus)
    assert list(machine.cpu(settings(), on(replace(board, cpus=cpus))))[1:] == [line]


def test_no_governor_is_no_line(settings):
    assert len(list(machine.cpu(settings(), on(replace(PC, cpus=(Cpu(0),)))))) == 1


def test_memory(settings):
    assert only(machine.memory(settings(), on(PC))).check == "memory"
    assert machine.memory_line(4000, 8000) == Line("memory", "ok", "4000 of 8000 MiB are free")
    line = machine.memory_line(200, 1900)
    assert (line.state, line.text) == ("warn", "200 of 1900 MiB are free")
    assert line.fix


def test_cache(settings, tmp_path, monkeypatch):
    line = only(machine.cache(settings(cache_dir=tmp_path / "deep" / "in"), on(PC)))
    assert line.state in ("ok", "warn")
    assert line.text.startswith(f"{tmp_path / 'deep' / 'in'}, ")
    assert not (tmp_path / "deep").exists()
    (tmp_path / "file").touch(0o755)
    line = only(machine.cache(settings(cache_dir=tmp_path / "file" / "cache"), on(PC)))
    assert (line.state, line.fix) == ("warn", "name another folder with --cache-dir, or change its owner")
    monkeypatch.setattr(machine, "_LEAST_DISK_MIB", 1 << 40)
    assert only(machine.cache(settings(), on(PC))).fix == "make room, or name another --cache-dir"
    # As root everything may be written.
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert "cannot be written" in only(machine.cache(settings(), on(PC))).text


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine that has no librknnrt in the usual folders."""
    (folder := tmp_path / "lib").mkdir()
    monkeypatch.setattr(computing, "FOLDERS", (folder,))
    monkeypatch.setattr(computing, "open_library", lambda wanted: rknn_library.open_library(wanted, {}, (folder,)))
    return folder


def test_a_library_that_is_not_there(settings, nowhere):
    assert only(computing.library(settings(), on(PC))) == Line(
        "library",
        "ok",
        "librknnrt.so was not found; install the board's rknpu2 runtime or name the file with --rknn-library",
    )
    line = only(computing.library(settings(), on(ROCK_5B)))
    assert (line.state, line.text) == ("warn", "librknnrt.so was not found")
    assert line.fix == "install the board's rknpu2 runtime or name the file with --rknn-library"
    assert only(computing.library(settings(runtime="rknn"), on(PC))).state == "fail"
    assert only(computing.library(settings(rknn_library=nowhere / "mine.so"), on(PC))).state == "fail"
    # The other runtime needs it as well.
    assert only(computing.library(settings(), on(ROCK_5B, Accelerator(name="rknn-lite")))).state == "warn"
    assert list(computing.library(settings(runtime="onnx"), on(ROCK_5B))) == []


def test_the_only_library_that_rknn_lite_takes(settings, nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr(rknn_lite, "LIBRARY", library := tmp_path / "usr" / "librknnrt.so")
    # One in another place is no help.
    elsewhere = stand_in_lite.a_library()
    line = only(computing.library(settings(runtime="rknn-lite", rknn_library=elsewhere), on(ROCK_5B)))
    assert line == Line(
        "library",
        "fail",
        f"rknn-toolkit-lite2 takes no library but {library}, which does not exist",
        "install the board's rknpu2 runtime there, or make that a link to librknnrt.so",
    )
    library.parent.mkdir()
    shutil.copy(elsewhere, library)
    line = only(computing.library(settings(runtime="rknn-lite"), on(ROCK_5B)))
    assert (line.state, "it lacks rknn_init" in line.text) == ("fail", True)
    monkeypatch.setattr(computing, "open_library", lambda wanted: Opened(wanted, "2.3.2"))
    line = only(computing.library(settings(runtime="rknn-lite"), on(ROCK_5B)))
    assert line == Line("library", "ok", f"{library}, version 2.3.2")


class Opened:
    def __init__(self, path, version):
        self.path = path
        self.versions = Versions(version, "")


def test_libraries(settings, nowhere, monkeypatch):
    own = nowhere / "librknnrt.so"
    own.write_text("library")
    monkeypatch.setattr(computing, "open_library", lambda wanted: Opened(own, "2.3.2 (429f97ae6b)"))
    line = only(computing.library(settings(), on(ROCK_5B)))
    assert line == Line("library", "ok", f"{own}, version 2.3.2 (429f97ae6b)")
    (nowhere.parent / "lib64").symlink_to(nowhere)
    monkeypatch.setattr(computing, "FOLDERS", (nowhere, nowhere.parent / "lib64"))
    assert only(computing.library(settings(), on(ROCK_5B))).state == "ok"
    (nowhere.parent / "local").mkdir()
    (nowhere.parent / "local/librknnrt.so").write_text("another")
    monkeypatch.setattr(computing, "FOLDERS", (nowhere, nowhere.parent / "lib64", nowhere.parent / "local"))
    line = only(computing.library(settings(), on(ROCK_5B)))
    assert line.state == "warn"
    assert line.text.endswith(f"; there are others as well: {nowhere.parent / 'local/librknnrt.so'}")
    assert line.fix.startswith("remove all but one")
    monkeypatch.setattr(computing, "open_library", lambda wanted: Opened(own, "1.5.2"))
    line = only(computing.library(settings(), on(ROCK_5B)))
    assert (line.state, "too old" in line.text, "librknnrt 2.3.2" in line.fix) == ("warn", True, True)
    monkeypatch.setattr(computing, "open_library", lambda wanted: Opened(own, ""))
    assert "version unknown" in only(computing.library(settings(), on(ROCK_5B))).text


def test_rknn_lite(settings, tmp_path, monkeypatch):
    assert list(computing.lite(settings(), on(PC))) == []
    assert only(computing.lite(settings(), on(ROCK_5B))).state == "ok"
    line = only(computing.lite(settings(runtime="rknn-lite"), on(ROCK_5B)))
    assert (line.state, "pip install rknn-toolkit-lite2" in line.fix) == ("fail", True)
    assert list(computing.lite(settings(runtime="onnx"), on(ROCK_5B))) == []
    (package := tmp_path / "site/rknn_toolkit_lite2-2.3.2.dist-info").mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: rknn-toolkit-lite2\nVersion: 2.3.2\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert only(computing.lite(settings(), on(PC))) == Line("rknn-lite", "ok", "rknn-toolkit-lite2 2.3.2 is installed")


def test_what_computes(settings):
    on_cpu = Line("runtime", "ok", "ONNX Runtime computes everything on the CPU")
    assert list(computing.runtime(settings(), on(PC))) == [on_cpu]
    assert list(computing.runtime(settings(runtime="onnx"), on(ROCK_5B))) == [on_cpu]
    assert only(computing.runtime(settings(), on(ROCK_5B, Accelerator()))) == Line(
        "runtime", "ok", "librknnrt computes 3 graphs at a time on the NPU, ONNX Runtime the rest on the CPU"
    )
    lite = only(computing.runtime(settings(), on(ROCK_5B, Accelerator(name="rknn-lite", cores=1))))
    assert lite.text.startswith("rknn-toolkit-lite2 computes one graph at a time on the NPU")


@pytest.mark.parametrize(
    "devices", [(), (DeviceNode(NODE, False, "must not be opened by this user; add the user to the group"),)]
)
def test_a_runtime_without_a_device_is_not_well(settings, devices):
    board = replace(ROCK_5B, devices=devices)
    line = only(computing.runtime(settings(), on(board, accelerator := Accelerator())))
    assert (line.state, line.text) == ("warn", "librknnrt was chosen, but no device of the NPU may be used")
    assert line.fix
    # Unless it works all the same.
    accelerator.load(NODE)
    assert only(computing.runtime(settings(), on(board, accelerator))).state == "ok"


def test_a_runtime_that_loads_nothing_is_not_well(settings):
    accelerator = Accelerator()
    accelerator.load_failure = "the NPU cannot load a.rknn: rknn_init returned -3; load the driver"
    line = only(computing.runtime(settings(), on(ROCK_5B, accelerator)))
    assert (line.check, line.state, line.fix) == ("runtime", "warn", "load the driver")
    assert line.text.endswith("the NPU does not load models: the NPU cannot load a.rknn: rknn_init returned -3")
    accelerator.load_failure = "it fails"
    assert only(computing.runtime(settings(), on(ROCK_5B, accelerator))).fix


def test_refusals(settings):
    refusal = "librknnrt is not used: it was not found; install it"
    assert list(computing.runtime(settings(), on(PC, refusals=(refusal,))))[1] == Line("runtime", "ok", refusal)
    state = Line("runtime", "warn", "librknnrt is not used: it was not found", "install it")
    assert list(computing.runtime(settings(), on(ROCK_5B, refusals=(refusal,))))[1] == state
    with_lite = on(ROCK_5B, Accelerator(name="rknn-lite"), refusals=(refusal,))
    assert [line.state for line in computing.runtime(settings(), with_lite)] == ["ok", "warn"]
    lines = list(computing.runtime(settings(runtime="rknn"), on(ROCK_5B, refusals=(refusal,))))
    assert [line.state for line in lines] == ["fail", "fail"]
    assert lines[0].text == "--runtime rknn cannot be used: ONNX Runtime computes everything on the CPU"
    assert all(line.fix for line in lines)


def test_without_models_the_folder_is_named(settings, tmp_path):
    line = only(verify.models(settings(), on(PC)))
    assert line.state == "warn"
    assert line.text == f"none in {tmp_path / 'voices'}: the built-in engines speak and listen"
    first, second = verify.models(settings(data_dir=(tmp_path / "gone",)), on(PC))
    assert (first.state, first.text) == ("warn", f"{tmp_path / 'gone'} is no folder that can be read")
    assert first.fix and second.fix


def test_a_model_for_the_cpu(settings, voice):
    (voice() / "decoder.rknn").unlink()
    assert only(verify.check_models(settings(), on(PC))) == Line("model sano", "ok", "piper-pair, on the CPU")
    line = only(verify.check_models(settings(), on(ROCK_5B, Accelerator())))
    assert line.text.endswith("on the CPU; `wyoming-rknn models convert` makes it ready for the NPU")


def test_a_model_that_is_broken(settings, tmp_path):
    (folder := tmp_path / "voices").mkdir()
    (folder / "en_US-lonely-medium.onnx").write_bytes(b"no graph")
    line = only(verify.models(settings(), on(PC)))
    assert (line.check, line.state) == ("model en_US-lonely-medium", "fail")
    assert line.fix


MADE = "decoder.rknn, made for rk3588 by toolkit 2.3.2"


def test_a_model_that_is_right(settings, voice):
    voice()
    line = only(verify.check_models(settings(), on(ROCK_5B, accelerator := Accelerator())))
    assert (line.check, line.state, line.fix) == ("model sano", "ok", "")
    assert line.text.startswith(f"{MADE}: exact, ")
    assert line.text.endswith(" ms")
    assert accelerator.open == 0
    rounding = Accelerator(lambda z: (2 * z).astype(np.float16).astype(np.float32))
    figures = only(verify.check_models(settings(), on(ROCK_5B, rounding))).text.removeprefix(f"{MADE}: ")
    assert 60 < float(figures.split(" dB, ")[0]) < 90


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda z: 0 * z, "gives nothing but zeros in 'y'"),
        (lambda z: np.nan * z, "gives NaN or infinity in 'y'"),
        (lambda z: 3 * z, "differs from what ONNX Runtime computes: 6.0 dB, at least 45 dB are due"),
        (failing(AcceleratorError("rknn_run returned -1; look it up")), "cannot be computed: rknn_run returned -1"),
    ],
)
@pytest.mark.parametrize("spare", [True, False])
def test_a_model_that_is_wrong(settings, voice, answer, reason, spare):
    voice(spare=spare)
    line = only(verify.check_models(settings(), on(ROCK_5B, accelerator := Accelerator(answer))))
    assert (line.state, line.text) == ("fail", f"{MADE}: {reason}")
    assert line.fix.startswith("restart the board" if "computed:" in reason else "convert the model anew")
    assert "update librknnrt and the NPU's driver" in line.fix
    assert accelerator.open == 0


@pytest.mark.parametrize(
    "error", [AcceleratorError("no memory; use fewer models"), ModelInvalid("refused; use fewer models")]
)
def test_a_model_that_the_npu_does_not_load(settings, voice, error, monkeypatch):
    voice()
    accelerator = Accelerator()
    monkeypatch.setattr(accelerator, "load", lambda path, **_: failing(error)(path))
    line = only(verify.check_models(settings(), on(ROCK_5B, accelerator)))
    assert (line.state, line.text, line.fix) == ("fail", str(error).partition(";")[0], "use fewer models")


def test_a_golden_that_is_damaged(settings, voice):
    (voice() / "decoder.golden.npz").write_bytes(b"PK")
    line = only(verify.check_models(settings(), on(ROCK_5B, accelerator := Accelerator())))
    assert (line.state, line.fix) == ("fail", "convert the model anew")
    assert accelerator.open == 0


def test_a_model_without_golden(settings, voice):
    folder = voice(golden=False)
    line = only(verify.check_models(settings(), on(ROCK_5B, Accelerator())))
    assert (line.state, line.fix) == ("warn", "convert the model anew with `wyoming-rknn models convert`")
    assert line.text.endswith(" ms; whether it is right is not known, for it has no golden output beside it")
    assert "dB" not in line.text
    line = only(verify.check_models(settings(), on(ROCK_5B, Accelerator(lambda z: 0 * z))))
    assert (line.state, line.text) == ("fail", f"{MADE}: gives nothing but zeros in 'y'")
    # Its engine has compared it with the decoder for the CPU.
    Verdicts(settings().cache).remember(folder / "decoder.rknn", LIBRARY, "rk3588", Verdict(True, 52.5, 999.0))
    line = only(verify.check_models(settings(), on(ROCK_5B, Accelerator())))
    assert line.state == "ok"
    assert line.text.startswith(f"{MADE}: 52.5 dB, ")
    assert line.text.endswith(" ms (compared before)")
    assert "999" not in line.text
    assert only(verify.check_models(settings(), on(ROCK_5B, Accelerator(lambda z: 0 * z)))).state == "fail"


def test_what_was_found_is_kept(settings, voice):
    folder = voice()
    known = Verdicts(settings().cache)
    list(verify.check_models(settings(), on(ROCK_5B, Accelerator(lambda z: 3 * z))))
    assert known.recall(folder / "decoder.rknn", LIBRARY, "rk3588").passed is False
    accelerator = Accelerator()
    line = only(verify.check_models(settings(), on(ROCK_5B, accelerator), fresh=False))
    assert (line.state, accelerator.runs) == ("fail", 0)
    assert line.text.endswith("at least 45 dB are due (tested before)")
    assert only(verify.check_models(settings(), on(ROCK_5B, accelerator))).state == "ok"
    assert accelerator.runs > 3
    assert known.recall(folder / "decoder.rknn", LIBRARY, "rk3588").passed is True
    again = only(verify.check_models(settings(), on(ROCK_5B, Accelerator()), fresh=False))
    assert again.text.endswith("(tested before)")


def test_a_model_for_another_chip(settings, voice):
    voice("spared")
    voice("stuck", spare=False)
    spared, stuck = verify.check_models(settings(), on(ODROID_M1, accelerator := Accelerator()))
    assert (spared.state, stuck.state) == ("warn", "fail")
    assert all("made for rk3588" in line.text and "rk3568" in line.text and line.fix for line in (spared, stuck))
    assert accelerator.runs == 0


def test_a_model_of_another_toolkit(settings, voice):
    voice(toolkit="2.5.0")
    line = only(verify.check_models(settings(), on(ROCK_5B, Accelerator())))
    assert line.state == "warn"
    assert " ms; it was converted with toolkit 2.5.0, but librknnrt is 2.3.2" in line.text
    assert "convert the model" in line.fix
    # What is wrong is worse than what might be.
    assert only(verify.check_models(settings(), on(ROCK_5B, Accelerator(lambda z: 0 * z)))).state == "fail"


def test_models_where_there_is_no_npu(settings, voice):
    voice("spared")
    voice("stuck", spare=False)
    spared, stuck = verify.check_models(settings(), on(PC))
    assert spared == Line("model spared", "ok", f"{MADE}: not tested here, where no NPU is used; on the CPU")
    assert (stuck.state, stuck.text) == ("warn", f"{MADE}: not tested here, where no NPU is used")
    assert stuck.fix == "put a graph for the CPU beside it, or use the board it is made for"


def test_a_graph_that_is_cut_short(settings, voice):
    for name, spare in (("spared", True), ("stuck", False)):
        path = voice(name, spare=spare) / "decoder.rknn"
        path.write_bytes(path.read_bytes()[:-10])
    lines = [line for line in verify.check_models(settings(), on(PC)) if line.state != "ok"]
    assert [line.state for line in lines] == ["fail", "fail"]
    assert all("cut short" in line.text and line.fix for line in lines)


def test_models_are_chosen_by_name(settings, voice):
    for name in ("one", "two", "three"):
        voice(name)
    runtimes = on(ROCK_5B, Accelerator())
    lines = list(verify.check_models(settings(), runtimes, ["TWO", "one"]))
    assert [line.check for line in lines] == ["model one", "model two"]
    with pytest.raises(ModelNotFound, match="model 'tow' is not installed; did you mean two"):
        list(verify.check_models(settings(), runtimes, ["one", "tow"]))


def test_a_check_that_fails_does_not_keep_others_from_it(settings, monkeypatch):
    def broken(_settings, _runtimes):
        yield Line("broken", "ok", "so far")
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(doctor, "checks", lambda: (broken, machine.program))
    first, second, third = doctor.examine(settings(), on(PC))
    assert first.text == "so far"
    assert (second.check, second.state) == ("broken", "warn")
    assert second.text == "cannot be looked at: ZeroDivisionError: odd"
    assert second.fix
    assert third.check == "program"


def test_all_that_is_not_well_can_be_mended(settings, voice):
    """Whatever the board: each warn and fail says what to do, each ok asks for nothing."""
    voice("good")
    voice("stuck", spare=False, target="rk3562")
    voice("bare", golden=False)
    boards = (PC, ROCK_5B, ODROID_M1, replace(ROCK_5B, devices=(), driver="0.7.2", npu_governor="powersave"))
    accelerators = (None, Accelerator(), Accelerator(lambda z: 0 * z))
    seen = set()
    for board in boards:
        for accelerator in accelerators:
            for runtime in ("auto", "onnx", "rknn", "rknn-lite"):
                refusals = ("librknnrt is not used: it is not there",)
                for line in doctor.examine(settings(runtime=runtime), on(board, accelerator, refusals=refusals)):
                    assert bool(line.fix) is (line.state != "ok"), line
                    assert line.text and line.check and not line.text.endswith((".", ";")), line
                    assert "\n" not in line.text + line.fix
                    seen.add((line.check, line.state))
    assert {state for _, state in seen} == {"ok", "warn", "fail"}


def test_lines_are_printed_with_their_fix(capsys):
    doctor.show(Line("cpu", "warn", "slow", "be quicker"))
    doctor.show(Line("npu", "ok", "3 cores"))
    assert capsys.readouterr().out == "warn  cpu: slow\n      -> be quicker\nok    npu: 3 cores\n"


def test_the_exit_code_is_for_fails_alone():
    lines = [Line("a", "ok", ""), Line("b", "warn", "", "mend")]
    assert doctor.exit_code(lines) == 0
    assert doctor.exit_code([*lines, Line("c", "fail", "", "mend")]) == 1


def test_this_machine(program, tmp_path):
    done = program("doctor", "--data-dir", tmp_path, "--threads", "1", cwd=tmp_path, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok    program: wyoming-rknn ")
    assert all(line.startswith(("ok    ", "warn  ", "      -> ")) for line in lines)
    again = program("doctor", "--data-dir", tmp_path, "--threads", "1", cwd=tmp_path, text=True).stdout.splitlines()
    changing = ("ok    memory: ", "ok    cache: ", "warn  memory: ", "warn  cache: ")
    assert [line for line in again if not line.startswith(changing)] == [
        line for line in lines if not line.startswith(changing)
    ]


def test_this_machine_as_json(run, tmp_path):
    code, out, err = run("doctor", "--json", "--data-dir", tmp_path, "--runtime", "onnx")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.keys() == {"state", "checks", "board", "runtime"}
    assert found["state"] == "warn"
    assert all(check.keys() == {"check", "state", "text", "fix"} for check in found["checks"])
    assert {check["state"] for check in found["checks"]} <= {"ok", "warn"}
    assert {"soc", "model", "npu_cores", "driver", "devices", "cpus", "big_cpus"} <= found["board"].keys()
    assert found["runtime"]["chosen"] == "onnx"


def test_json_of_a_board(settings, voice, monkeypatch, capsys, tmp_path):
    voice()
    monkeypatch.setattr(Runtimes, "of", lambda _: on(replace(ROCK_5B, driver="0.9.7"), Accelerator(), cpus=(4, 5)))
    assert cli.main(["doctor", "--json", "--data-dir", str(tmp_path / "voices")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["board"]["soc"] == "rk3588"
    assert found["board"]["devices"] == [{"path": str(NODE), "usable": True, "reason": ""}]
    assert found["runtime"] | {"threads": 1} == {
        "wanted": "auto",
        "chosen": "rknn",
        "library": LIBRARY.library,
        "driver": "0.9.8",
        "threads": 1,
        "cpus": [4, 5],
    }
    assert "model sano" in [check["check"] for check in found["checks"]]


def test_what_is_asked_for_and_cannot_be_had(run, tmp_path):
    code, out, err = run("doctor", "--data-dir", tmp_path, "--rknn-library", tmp_path / "gone.so", "--runtime", "rknn")
    assert (code, err) == (1, "")
    assert f"fail  library: {tmp_path / 'gone.so'} does not exist\n      -> " in out.decode()
    assert "fail  runtime: --runtime rknn cannot be used" in out.decode()
    code, out, err = run("doctor", "--data-dir", tmp_path, "--soc", "rk3399", "--json")
    assert (code, json.loads(out)["state"]) == (1, "fail")


def test_wrong_use(run, one_line):
    code, _, err = run("doctor", "--cpu-affinity", "many")
    assert code == 2
    assert "--cpu-affinity must be auto, none, or a list of cores" in one_line(err)
    assert issubclass(UsageError, ValueError)


def test_onnx_runtime_is_not_needed(program, tmp_path):
    code = "import sys; from wyoming_rknn.cli import main; main(['doctor']); print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("no test double of librknnrt.so: there is no gcc to build it")
    return build(tmp_path_factory.mktemp("double"))


@pytest.fixture
def board_of_doubles(program, double, voice, tmp_path):
    """Return a function that runs the doctor on a board whose librknnrt is the test double, which has a fault."""
    voice()
    control = tmp_path / "control"
    words = ("--runtime", "rknn", "--soc", "rk3588", "--rknn-library", double, "--data-dir", tmp_path / "voices")

    def board_of_doubles(*more, fault=""):
        control.write_text(f"{fault}\n")
        return program("doctor", *words, *more, text=True, env=os.environ | {"RKNN_DOUBLE_CONTROL": str(control)})

    return board_of_doubles


def test_through_the_c_interface(board_of_doubles):
    done = board_of_doubles("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    (model,) = [check for check in found["checks"] if check["check"] == "model sano"]
    assert (model["state"], " dB, " in model["text"]) == ("ok", True), model
    assert found["runtime"]["chosen"] == "rknn"
    assert found["runtime"]["driver"]


def test_a_driver_that_is_missing_is_seen_in_the_runtime_too(board_of_doubles):
    done = board_of_doubles(fault="INIT_RC=-3")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if " runtime: " in line]
    assert line.startswith("warn  runtime: librknnrt was chosen, but the NPU does not load models: ")
    assert "rknn_init returned -3" in line


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("INIT_RC=-6", "rknn_init returned -6"),
        # The last core works only when all do.
        ("RUN_MS=50\nOUTPUT=wrong\nFAULT_CORE=2", "when 3 cores compute at once"),
    ],
)
def test_a_fault_of_the_c_library_is_a_fail(board_of_doubles, fault, reason):
    done = board_of_doubles(fault=fault)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert line.startswith("fail  model sano: ")
    assert reason in line
