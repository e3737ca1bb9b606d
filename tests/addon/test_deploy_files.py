"""What docs/deploy holds for containers, udev and the shell."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from protocol.harness.servers import ROOT

from wyoming_rknn import cli
from wyoming_rknn.settings import ADDON_OPTIONS, from_environment

FOLDER = ROOT / "docs" / "deploy"
DOCKERFILE = FOLDER / "Dockerfile"
BASE, NPU = FOLDER / "compose.yaml", FOLDER / "compose.npu.yaml"
COMPOSE_SCHEMA = Path(__file__).with_name("compose_schema.json")
YAMLLINT = json.dumps(
    {"extends": "default", "rules": {"line-length": {"max": 120}, "document-start": "disable", "comments": "enable"}}
)


def tool(name: str) -> str:
    # What pip installed lies beside Python, also where the environment is not activated.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if (found := shutil.which(name, path=path)) is None:
        pytest.skip(f"{name} is not installed, so what it looks for goes unseen")
    return found


def called(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each with the rest of its lines."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def told(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def test_hadolint_has_no_complaint():
    assert called(tool("hadolint"), DOCKERFILE) == ""


def test_all_that_the_dockerfile_copies_is_there_and_reaches_docker():
    copied = [source for rest in told("COPY") if "--from" not in rest for source in rest.split()[:-1]]
    assert "wyoming_rknn" in copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line[0] == "!"} == set(copied)


def test_what_the_build_needs_of_the_project_is_copied():
    copied = {source for rest in told("COPY") for source in rest.split()[:-1]}
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wheel = pyproject["project"], pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    read = {"pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"]}
    read |= set(wheel.get("force-include", ()))
    read.add(Path(pyproject["tool"]["hatch"]["version"]["path"]).parts[0])
    assert read == copied - {"--from=build", "/wheels"}


def test_the_container_is_no_root_s_and_tells_its_health():
    assert told("USER") == ["1000:1000"]
    command = json.loads(told("HEALTHCHECK")[0].partition("CMD")[2])
    assert command == ["wyoming-rknn", "health"]
    entry = json.loads(told("ENTRYPOINT")[0]) + json.loads(told("CMD")[0])
    for words in (command, entry):
        assert understood(words[1:]) == words[1]
    assert told("EXPOSE") == ["10800"]


def test_the_container_s_settings_are_settings_and_its_volume_holds_what_stays():
    variables = dict(pair.split("=", 1) for pair in told("ENV")[0].split())
    settings = from_environment(variables)
    (volume,) = told("VOLUME")
    assert settings == {"data_dir": volume, "cache_dir": f"{volume}/cache"}
    assert Path(volume) == ADDON_OPTIONS.parent
    assert variables["HOME"] == volume


@pytest.mark.parametrize("path", [BASE, NPU], ids=lambda path: path.name)
def test_yamllint_has_no_complaint(path: Path):
    assert called(tool("yamllint"), "--strict", "-d", YAMLLINT, path) == ""


@pytest.mark.parametrize("path", [BASE, NPU], ids=lambda path: path.name)
def test_compose_files_are_as_the_specification_has_them(path: Path):
    jsonschema = pytest.importorskip("jsonschema", reason="the schema of compose files is not checked: no jsonschema")
    schema = json.loads(COMPOSE_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    content = loaded(path)
    assert [error.message for error in validator.iter_errors(content)] == []
    (service,) = content["services"].values()
    # An empty variable counts as not set.
    assert from_environment(dict.fromkeys(service["environment"], "x"))
    assert all(re.fullmatch(r"\$\{[A-Z_]+:-\}", value) for value in service["environment"].values())
    assert {volume.split(":")[0] for volume in service["volumes"] if isinstance(volume, str)} <= set(
        content.get("volumes", {})
    )
    for key, wrong in (("restart", "unless_stopped"), ("network_mode", "hosts"), ("privileged", True), ("init", "yes")):
        assert not validator.is_valid({"services": {"one": {**service, key: wrong}}})


def test_compose_builds_this_project():
    build = service_of(BASE)["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT.resolve()
    assert ROOT / build["dockerfile"] == DOCKERFILE
    assert list(loaded(BASE)["services"]) == list(loaded(NPU)["services"])


def test_the_container_gets_no_more_than_it_needs():
    service = service_of(BASE)
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    # Zeroconf reaches nobody from a network of the container's own.
    assert service["network_mode"] == "host"
    assert "devices" not in service and "group_add" not in service
    npu = service_of(NPU)
    assert npu["devices"] == ["/dev/dri"]
    assert [re.match(r"\$\{(\w+):\?", group)[1] for group in npu["group_add"]] == ["RENDER_GID", "VIDEO_GID"]  # type: ignore[index]
    assert all(volume["read_only"] for volume in npu["volumes"])


def test_udev_rules_are_matches_and_assignments():
    rules = [
        line.split(", ")
        for path in FOLDER.glob("*.rules")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and line[0] != "#"
    ]
    assert len(rules) == 3
    for rule in rules:
        parts = [
            re.fullmatch(r'(SUBSYSTEM|KERNEL|ACTION|GROUP|MODE|ATTR\{\w+\})(==|!=|=)"([^"]+)"', part) for part in rule
        ]
        assert all(parts), rule
        for part in parts:
            assert part
            assert (part[2] == "=") == (part[1] in ("GROUP", "MODE") or part[1].startswith("ATTR"))
    # Names of the NPU's device in /sys/class/devfreq.
    (kernel,) = re.findall(r'KERNEL=="([^"]+)", ATTR', (FOLDER / "61-rockchip-npu-performance.rules").read_text())
    assert all(fnmatch(name, kernel) for name in ("fdab0000.npu", "27700000.npu", "fde40000.npu"))
    assert not fnmatch("fb000000.gpu", kernel)


def test_the_cpu_s_governor_is_written(tmp_path: Path):
    governors = [tmp_path / f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor" for number in (0, 4, 6)]
    for governor in governors:
        governor.parent.mkdir(parents=True)
        governor.write_text("ondemand\n")
    if os.geteuid() != 0:
        pytest.skip("systemd-tmpfiles works in another root for root alone")
    called(tool("systemd-tmpfiles"), "--create", f"--root={tmp_path}", FOLDER / "cpu-performance.conf")
    assert [governor.read_text().strip() for governor in governors] == ["performance"] * 3


def test_shellcheck_has_no_complaint():
    path = FOLDER / "wyoming-rknn"
    assert os.access(path, os.X_OK)
    assert called(tool("shellcheck"), path) == ""


def test_the_page_names_every_file_and_no_other():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir()} - {"README.md", "Dockerfile.dockerignore"}
    assert [name for name in files if name not in page] == []
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", page)
    assert [target for target in linked if not (FOLDER / target).exists()] == []
    assert [name for name in re.findall(r"docs/deploy/([\w.-]+)", page) if not (FOLDER / name).exists()] == []


def test_the_page_s_commands_are_commands():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    commands = re.findall(
        r"(?<![\w/.-])wyoming-rknn ((?:models (?:add|list|verify)|doctor|health|bench|serve)\b.*)", page
    )
    assert len(commands) >= 4
    for command in commands:
        words = re.sub(r"\s*(#|`|\)).*", "", command).split()
        assert understood(words) == words[0]


def understood(words: list[str]) -> str:
    """Return the verb of a command line, which must be one."""
    parser, _ = cli._parser()
    return str(parser.parse_args(words).verb)


def loaded(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def service_of(path: Path) -> dict[str, Any]:
    (service,) = loaded(path)["services"].values()
    assert isinstance(service, dict)
    return service
