"""The documentation tells the truth: links lead somewhere, commands and options exist, messages are the program's."""

import argparse
import ast
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

from wyoming_rknn import cli
from wyoming_rknn.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "addon").glob("*.md"))]
COMMAND = re.compile(r"^    wyoming-rknn (.+?)(?:\s+[#>].*)?$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMANDS = ("wyoming-rknn ", "--", "sudo ", "docker ", "journalctl ", "cat ", "network_mode: ")
"""What code within a sentence of troubleshooting.md begins with that is no message."""
FOREIGN = {"--device", "--privileged", "--security-opt", "--group-add", "--cpuset-cpus"}
"""Options of Docker."""


def name(path):
    return path.relative_to(ROOT).as_posix()


def prose(path):
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """Return what GitHub makes of a page's headings."""
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = unquote(link).partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name(page)} links to {link}"
        assert path.is_relative_to(ROOT), f"{name(page)} links to {link}"
        if anchor:
            assert anchor in anchors(path), f"{name(page)} links to {link}"


def test_every_page_is_found_from_the_readme():
    linked = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        linked |= {(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(page))}
    assert {page for page in (ROOT / "docs").glob("*.md") if page not in linked} == set()


def parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    parser, _ = cli._parser()
    for command in COMMAND.findall(page.read_text(encoding="utf-8")):
        try:
            parser.parse_args(shlex.split(command))
        except (SystemExit, UsageError):
            pytest.fail(f"{name(page)}: wyoming-rknn {command}")


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "deploy"], ids=name)
def test_options_exist(page):
    known = {option for parser in parsers(cli._parser()[0]) for option in parser._option_string_actions} | FOREIGN
    for span in SPAN.findall(prose(page)):
        if span.startswith(("--", "wyoming-rknn ")):
            unknown = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", span)) - known
            assert not unknown, f"{name(page)}: {span}"


def messages():
    """Return every text of the package, with … in the place of what is filled in."""
    for path in (ROOT / "wyoming_rknn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[.\d]*[a-z]", "…", node.value)


def test_messages_are_those_of_the_program():
    """Each part of a quoted message, up to a name, a number or a semicolon, stands in the code."""
    known = "\n".join(messages()).replace("`", "")
    quoted = [span for span in SPAN.findall(prose(ROOT / "docs" / "troubleshooting.md")) if " " in span]
    quoted = [span for span in quoted if not span.startswith(COMMANDS)]
    assert len(quoted) > 30
    parts = [(span, part.strip(" :?,()")) for span in quoted for part in re.split(r"…|;", span)]
    assert [(span, part) for span, part in parts if part not in known] == []
