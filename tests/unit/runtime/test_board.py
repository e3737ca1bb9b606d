import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from wyoming_rknn.errors import UsageError
from wyoming_rknn.runtime import cpus
from wyoming_rknn.runtime.board import TARGETS, Board, DeviceNode, cpus_for, target
from wyoming_rknn.runtime.cpus import Cpu

ROOT = Path(__file__).parents[3]
NPU_EVENT = "DRIVER=RKNPU\nOF_NAME=npu\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\nOF_COMPATIBLE_N=1\n"
GPU_EVENT = "DRIVER=panthor\nOF_NAME=gpu\nOF_COMPATIBLE_0=rockchip,rk3588-mali\n"


def put(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def cores(capacities, governors="schedutil"):
    files = {"sys/devices/system/cpu/cpufreq/policy0/x": "", "sys/devices/system/cpu/cpuidle/x": ""}
    for number, capacity in enumerate(capacities):
        files[f"sys/devices/system/cpu/cpu{number}/cpu_capacity"] = f"{capacity}\n"
        files[f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor"] = f"{governors}\n"
    return files


ROCK_5B = {
    "proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
    "proc/device-tree/model": "Radxa ROCK 5B\0",
    "sys/class/drm/renderD128/device/uevent": GPU_EVENT,
    "sys/class/drm/renderD129/device/uevent": NPU_EVENT,
    "sys/class/drm/card1/device/uevent": NPU_EVENT,
    "sys/class/drm/version": "drm 1.1.0",
    "sys/class/devfreq/fdab0000.npu/governor": "rknpu_ondemand\n",
    "sys/class/devfreq/dmc/governor": "dmc_ondemand\n",
    "sys/module/rknpu/version": "0.9.8\n",
    "dev/dri/renderD128": "",
    "dev/dri/renderD129": "",
    # Two clusters of Cortex-A76 that differ a little.
    **cores([414, 414, 414, 414, 1003, 1003, 1024, 1024]),
}


def read(tmp_path, files, **kwargs):
    return Board.read(put(tmp_path, files), **({"environment": {}} | kwargs))


def test_a_rock_5b(tmp_path):
    board = read(tmp_path, ROCK_5B)
    assert board.soc == "rk3588"
    assert board.soc_source == str(tmp_path / "proc/device-tree/compatible")
    assert board.model == "Radxa ROCK 5B"
    assert (board.npu_cores, board.has_core_masks) == (3, True)
    assert board.driver == "0.9.8"
    assert board.devices == (DeviceNode(tmp_path / "dev/dri/renderD129"),)
    assert [cpu.number for cpu in board.cpus] == list(range(8))
    assert board.cpus[4] == Cpu(4, 1003, "schedutil")
    assert board.big_cpus == (4, 5, 6, 7)
    assert board.npu_governor == "rknpu_ondemand"
    assert (board.soc_unknown, board.has_rocket, board.container) == (None, False, "")


def test_a_board_is_a_value(tmp_path):
    board = read(tmp_path, ROCK_5B)
    assert hash(board) == hash(read(tmp_path, {}))
    with pytest.raises(FrozenInstanceError):
        board.soc = "rk3576"


def test_an_add_on_sees_the_tree_elsewhere(tmp_path):
    files = {
        "device-tree/compatible": "xunlong,orangepi-5\0rockchip,rk3588s\0",
        "device-tree/model": "Orange Pi 5\0",
        "dev/rknpu": "",
    }
    board = read(tmp_path, files, environment={"SUPERVISOR_TOKEN": "secret"})
    assert (board.soc, board.model, board.container) == ("rk3588", "Orange Pi 5", "add-on")
    assert board.soc_source == str(tmp_path / "device-tree/compatible")
    assert board.devices == (DeviceNode(tmp_path / "dev/rknpu"),)


def test_a_container_sees_no_tree_but_the_npu(tmp_path):
    files = {".dockerenv": "", "sys/class/drm/renderD129/device/uevent": NPU_EVENT}
    board = read(tmp_path, files)
    assert (board.soc, board.npu_cores, board.container) == ("rk3588", 3, "container")
    (node,) = board.devices
    assert not node.usable
    assert node.reason == (
        "is not there; start the container with --device /dev/dri, and with --device /dev/rknpu where that exists"
    )


def test_the_npus_frequency_names_the_chip_too(tmp_path):
    event = "DRIVER=RKNPU\nNAME=rk3562\nOF_COMPATIBLE_0=rockchip,rk3576-rknpu\n"
    board = read(tmp_path, {"sys/class/devfreq/27700000.npu/device/uevent": event, "run/.containerenv": ""})
    assert (board.soc, board.npu_cores, board.container) == ("rk3576", 2, "container")


def test_sysfs_has_the_tree_as_well(tmp_path):
    files = {
        "sys/firmware/devicetree/base/compatible": "hardkernel,odroid-m1\0rockchip,rk3568\0",
        "sys/devices/soc0/machine": "Hardkernel ODROID-M1\n",
    }
    board = read(tmp_path, files)
    assert (board.soc, board.model) == ("rk3568", "Hardkernel ODROID-M1")
    assert (board.npu_cores, board.has_core_masks) == (1, False)


def test_the_chip_may_be_named_by_the_kernel_alone(tmp_path):
    board = read(tmp_path, {"sys/devices/soc0/soc_id": "RK3562\n"})
    assert (board.soc, board.soc_source) == ("rk3562", str(tmp_path / "sys/devices/soc0/soc_id"))


def test_a_tree_that_tells_nothing_is_no_obstacle(tmp_path):
    files = {"proc/device-tree/compatible": "\0\0", "device-tree/compatible": "rockchip,rk3566\0"}
    assert read(tmp_path, files).soc == "rk3566"


@pytest.mark.parametrize(
    ("compatible", "soc"),
    [
        ("radxa,rock-5c\0rockchip,rk3588s\0", "rk3588"),
        ("radxa,rock-5c\0rockchip,rk3582\0", "rk3588"),
        ("radxa,e52c\0rockchip,rk3582\0rockchip,rk3588s\0rockchip,rk3588\0", "rk3588"),
        ("vendor,box\0rockchip,rk3583\0", "rk3588"),
        ("rockchip,rk3588s2-evb\0rockchip,rk3588\0", "rk3588"),
        ("vendor,industrial\0rockchip,rk3588j", "rk3588"),
        ("rockchip,rk3588-evb1-lp4-v10\0rockchip,rk3588\0", "rk3588"),
        ("turing,rk1\0rockchip,rk3588\0", "rk3588"),
        ("armsom,sige5\0rockchip,rk3576\0", "rk3576"),
        ("vendor,board\0rockchip,rk3576s\0", "rk3576"),
        ("pine64,quartz64-a\0rockchip,rk3566\0", "rk3566"),
        ("rockchip,rk3566-evb2-lp4x-v10\0rockchip,rk3566\0", "rk3566"),
        ("friendlyarm,nanopi-r5s\0rockchip,rk3568\0", "rk3568"),
        ("vendor,board\0rockchip,rk3568b2\0", "rk3568"),
        ("vendor,board\0rockchip,rk3562\0", "rk3562"),
        ("rockchip,rv1126b-evb1-v10\0rockchip,rv1126b\0", "rv1126b"),
        ("RADXA,ROCK-5B\0ROCKCHIP,RK3588\0", "rk3588"),
        # Other makers' chips, Rockchip's without an NPU, and those whose NPU has another library.
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None),
        ("pine64,rockpro64\0rockchip,rk3399\0", None),
        ("vendor,board\0rockchip,rk3399pro\0", None),
        ("vendor,board\0rockchip,rk3528\0", None),
        ("vendor,board\0rockchip,rv1126\0", None),
        ("vendor,board\0rockchip,rv1106\0", None),
        ("vendor,rock-rk3588\0", None),
        ("", None),
        ("\0", None),
        (",\0,,\0-\0", None),
        (b"\xff\xfe\0rockchip,rk3588\0", "rk3588"),
    ],
)
def test_chips(tmp_path, compatible, soc):
    board = read(tmp_path, {"proc/device-tree/compatible": compatible})
    assert board.soc == soc
    assert board.npu_cores == {"rk3588": 3, "rk3576": 2, None: 0}.get(soc, 1)
    assert board.has_core_masks is (soc in ("rk3588", "rk3576"))
    assert bool(board.soc_source) is (soc is not None)


def test_targets_are_their_own_chips():
    assert [target(name) for name in TARGETS] == list(TARGETS)
    assert target(" RK3588S ") == "rk3588"


def test_the_setting_wins(tmp_path):
    put(tmp_path, ROCK_5B)
    environment = {"WYOMING_RKNN_SOC": "rk3562"}
    board = Board.read(tmp_path, "rk3576", environment)
    assert (board.soc, board.soc_source, board.npu_cores) == ("rk3576", "--soc", 2)
    board = Board.read(tmp_path, None, environment)
    assert (board.soc, board.soc_source) == ("rk3562", "WYOMING_RKNN_SOC")
    assert board.model == "Radxa ROCK 5B"
    assert Board.read(tmp_path, "", {"WYOMING_RKNN_SOC": ""}).soc == "rk3588"


def test_a_chip_that_is_not_known_is_not_guessed(tmp_path):
    board = Board.read(put(tmp_path, ROCK_5B), "rk3399", {})
    assert (board.soc, board.soc_unknown, board.npu_cores) == (None, "rk3399", 0)


def test_any_machine(tmp_path):
    """An x86 machine: no device tree, no capacities, a GPU."""
    files = {
        "sys/class/drm/renderD128/device/uevent": "DRIVER=i915\nPCI_ID=8086:46A6\n",
        "sys/class/drm/card0/device/uevent": "DRIVER=i915\n",
        "dev/dri/renderD128": "",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
        "sys/devices/system/cpu/cpu1/online": "1",
    }
    board = read(tmp_path, files)
    assert board == Board(cpus=(Cpu(0, None, "powersave"), Cpu(1)))
    assert cpus_for("auto", board) == ()


def test_nothing_at_all(tmp_path):
    assert read(tmp_path, {}) == Board()
    assert Board.read(tmp_path / "missing", environment={}) == Board()


def test_files_that_are_something_else(tmp_path):
    for name in ("proc/device-tree/compatible", "proc/device-tree/model", "sys/module/rknpu/version", "dev/rknpu"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sys/devices/system").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu").write_text("")
    board = read(tmp_path, {"sys/class/drm/renderD129/device/uevent": b"\xff\0=\n=\nDRIVER"})
    assert (board.soc, board.driver, board.cpus) == (None, None, ())


def test_this_machine_in_little_time():
    board = Board.read()
    assert {cpu.number for cpu in board.cpus} >= os.sched_getaffinity(0)
    begin_s = time.perf_counter()
    Board.read()
    assert time.perf_counter() - begin_s < 1


@pytest.mark.parametrize(
    ("name", "content", "version"),
    [
        ("sys/module/rknpu/version", "0.9.6\n", "0.9.6"),
        ("proc/rknpu/version", "RKNPU driver: v0.8.2\n", "0.8.2"),
        ("sys/kernel/debug/rknpu/version", "RKNPU driver: v0.9.8\n", "0.9.8"),
        ("sys/module/rknpu/version", "", None),
    ],
)
def test_driver_versions(tmp_path, name, content, version):
    assert read(tmp_path, {name: content}).driver == version


def test_the_mainline_driver_is_seen(tmp_path):
    (tmp_path / "sys/bus/platform/drivers/rocket/fdab0000.npu").mkdir(parents=True)
    assert read(tmp_path, {}).has_rocket
    (tmp_path / "2/sys/bus/platform/drivers/rocket").mkdir(parents=True)
    assert not read(tmp_path / "2", {}).has_rocket


def test_a_node_of_the_driver_that_is_lost(tmp_path):
    files = {"sys/class/drm/renderD129/device/uevent": NPU_EVENT}
    (node,) = read(tmp_path, files).devices
    assert (node.usable, node.reason) == (False, "is not there; load the driver anew, or restart the board")
    (node,) = read(tmp_path, files, environment={"SUPERVISOR_TOKEN": "secret"}).devices
    assert "`video: true`" in node.reason


def test_a_driver_without_drm(tmp_path):
    put(tmp_path, {".dockerenv": "", "sys/class/misc/rknpu/dev": "10:120\n"})
    (node,) = Board.read(tmp_path, environment={}).devices
    assert (node.path, node.usable) == (tmp_path / "dev/rknpu", False)
    assert "--device /dev/rknpu" in node.reason
    (node,) = read(tmp_path, {"dev/rknpu": ""}).devices
    assert node.usable


def test_a_character_device_is_opened(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/rknpu").symlink_to("/dev/null")
    assert read(tmp_path, {}).devices == (DeviceNode(tmp_path / "dev/rknpu"),)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device, which needs root")
def test_a_device_without_a_driver(tmp_path):
    (tmp_path / "dev").mkdir()
    try:
        os.mknod(tmp_path / "dev/rknpu", 0o600 | 0o020000, os.makedev(240, 1))
    except PermissionError:
        pytest.skip("no device can be made here")
    (node,) = read(tmp_path, {"run/.containerenv": ""}).devices
    assert not node.usable
    assert node.reason.startswith(("is not there", "must not be opened here", "cannot be opened"))


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        ({}, "add the user to the groups render and video: sudo usermod -aG render,video USER, then log in anew"),
        (
            {".dockerenv": ""},
            "start the container with --group-add with the numbers of the host's groups render and video",
        ),
    ],
)
def test_a_device_of_others(files, fix):
    """As root everything may be opened, so a process of its own becomes somebody else."""
    code = """
import json, os, sys
from pathlib import Path
from wyoming_rknn.runtime.board import Board
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps([[node.usable, node.reason] for node in Board.read(Path(sys.argv[1]), environment={}).devices]))
"""
    with tempfile.TemporaryDirectory() as folder:
        root = put(Path(folder), ROCK_5B | files)
        (root / "dev/dri/renderD129").chmod(0)
        root.chmod(0o755)
        done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[False, f"must not be opened by this user; {fix}"]]


def test_cores_that_are_off_do_not_count(tmp_path):
    files = cores([1024, 400, 1024]) | {"sys/devices/system/cpu/cpu2/online": "0\n"}
    board = read(tmp_path, files)
    assert [cpu.number for cpu in board.cpus] == [0, 1]
    assert board.big_cpus == (0,)


@pytest.mark.parametrize(
    ("capacities", "big"),
    [
        ([414] * 4 + [1024] * 4, (4, 5, 6, 7)),
        ([485] * 4 + [1003] * 4, (4, 5, 6, 7)),
        ([400, 400, 767, 768, 1024], (3, 4)),
        ([1024, 1020, 1010, 1000], ()),
        ([1024], ()),
        (["", "", ""], ()),
        (["odd", "-1", "1024"], (2,)),
        ([0, 0], ()),
    ],
)
def test_big_cores(tmp_path, capacities, big):
    assert read(tmp_path, cores(capacities)).big_cpus == big


BOARD = Board(big_cpus=(4, 5, 6, 7))
ALL = set(range(8))


@pytest.mark.parametrize(
    ("affinity", "allowed", "chosen"),
    [
        ("auto", ALL, (4, 5, 6, 7)),
        (" AUTO ", ALL, (4, 5, 6, 7)),
        ("auto", {0, 1, 4}, (4,)),
        ("auto", {0, 1, 2, 3}, ()),
        ("none", ALL, ()),
        ("None", ALL, ()),
        ("4-7", ALL, (4, 5, 6, 7)),
        ("4,5", ALL, (4, 5)),
        ("5, 4 ,4", ALL, (4, 5)),
        ("0-1,7", ALL, (0, 1, 7)),
        (" 2 - 3 ", ALL, (2, 3)),
    ],
)
def test_affinity(affinity, allowed, chosen):
    assert cpus_for(affinity, BOARD, allowed) == chosen


def test_where_all_are_alike_none_is_chosen():
    assert cpus_for("auto", Board(), ALL) == ()


@pytest.mark.parametrize(
    "text", ["", "big", "4-", "-4", "7-4", "1,,2", "1;2", "4.5", "0-99999", "0-9999999999", "²", "٤", "1,"]
)
def test_what_is_no_list_is_refused(text):
    with pytest.raises(UsageError, match="--cpu-affinity must be auto, none, or a list of cores such as 4-7 or 4,5"):
        cpus_for(text, BOARD, ALL)


def test_cores_that_are_not_there_are_refused():
    message = "--cpu-affinity 6-9 names cores that this process cannot use: 8-9; it has 0-7"
    with pytest.raises(UsageError, match=message):
        cpus_for("6-9", BOARD, ALL)
    with pytest.raises(UsageError, match=r"cannot use: 4; it has 0-3,6$"):
        cpus_for("4", BOARD, {0, 1, 2, 3, 6})


def test_the_process_is_asked_for_its_cores():
    own = os.sched_getaffinity(0)
    assert cpus_for("auto", Board(big_cpus=(min(own), 5000))) == (min(own),)
    assert cpus_for(cpus.listed(own), Board()) == tuple(sorted(own))
    with pytest.raises(UsageError):
        cpus_for("5000", Board())


@pytest.mark.parametrize("numbers", [(0,), (0, 1), (4, 5, 6, 7), (0, 2, 4), (0, 1, 2, 6, 8, 9)])
def test_lists_are_read_as_they_are_written(numbers):
    assert cpus.parse(cpus.listed(reversed(numbers))) == numbers
