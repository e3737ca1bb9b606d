"""The catalogue as pages of the documentation."""

import re
from pathlib import Path

import pytest

from wyoming_rknn.models import catalog_form
from wyoming_rknn.models.catalog import Catalog
from wyoming_rknn.models.catalog_entry import CatalogEntry, CatalogFile, CatalogSource
from wyoming_rknn.models.catalog_pages import megabytes, models_page, voices_page
from wyoming_rknn.models.defaults import STRONG_SOCS, WEAK_SOCS, defaults

SOURCE = CatalogSource("me/models", None, "a")


@pytest.fixture(scope="module")
def packaged() -> Catalog:
    return Catalog.load()


def rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [re.split(r" (?<!\\)\| ", line.removeprefix("| ").removesuffix(" |")) for line in lines]


def test_each_model_is_on_one_page_once(packaged: Catalog) -> None:
    first = [row[0] for page in (voices_page(packaged), models_page(packaged)) for row in rows(page)]
    named = [match[1] for cell in first if (match := re.match(r"`([^`]+)`", cell))]
    for entry in packaged.entries:
        assert named.count(entry.name) == 1, entry.name


def test_tables_have_as_many_cells_in_each_row(packaged: Catalog) -> None:
    for page in (voices_page(packaged), models_page(packaged)):
        for table in page.split("\n\n"):
            assert len({len(row) for row in rows(table)}) <= 1, table


def test_voices_stand_below_their_language_from_quick_to_good(packaged: Catalog) -> None:
    page = voices_page(packaged)
    assert "176 voices in 57 languages" in page
    (german,) = re.findall(r"## German \(Germany\), de-DE\n\n(.*?)\n\n", page, re.DOTALL)
    names = [row[0] for row in rows(german)]
    assert [name for name in names if "thorsten-" in name] == [
        "`de_DE-thorsten-low`",
        "`de_DE-thorsten-medium`",
        "`de_DE-thorsten-high`",
    ]
    assert next(row for row in rows(german) if row[0] == "`de_DE-mls-medium`")[3] == "236"


def test_what_a_user_should_know_is_marked(packaged: Catalog) -> None:
    first = {row[0].split("`")[1]: row for row in rows(models_page(packaged)) if row[0].startswith("`")}
    assert first["qwen3-asr-0.6b-onnx"][0].endswith("† ‡")
    assert first["qwen3-asr-0.6b-rk3588"][0].endswith("` ‡")
    assert not {"†", "‡", "§"} & set(first["qwen3-asr-0.6b-sherpa-int8"][0])
    assert first["sensevoice-small-sherpa-rk3588-5s"][0].endswith("§")
    assert first["sensevoice-small-sherpa-int8"][0] == (
        "`sensevoice-small-sherpa-int8`, also `sensevoice`, `sensevoice-small`, `sensevoice-small-int8`"
    )
    assert first["sensevoice-small-rknn2-rk3588"][5] == "about 486"


def test_the_page_shows_a_catalogue_that_works(packaged: Catalog, tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", models_page(packaged), re.DOTALL)
    path = tmp_path / "catalog.json"
    path.write_text(example)
    (entry,) = catalog_form.read(path)
    assert entry.name == "my-voice" and entry.is_supported and len(entry.files) == 2


def test_the_page_names_every_field(packaged: Catalog) -> None:
    page = models_page(packaged)
    for field in (*catalog_form.ENTRY_FIELDS, *catalog_form.FILE_FIELDS):
        assert f"`{field}`" in page, field


def test_sizes() -> None:
    def model(*files: CatalogFile) -> CatalogEntry:
        return CatalogEntry("x", "tts", "piper", files=files)

    assert megabytes(model()) == ""
    assert megabytes(model(CatalogFile("a", SOURCE))) == ""
    assert megabytes(model(CatalogFile("a", SOURCE, bytes=63_201_294))) == "63.2"
    assert megabytes(model(CatalogFile("a", SOURCE, bytes=937_617_178))) == "938"
    rough = CatalogFile("b", SOURCE, about_bytes=48_100_000)
    assert megabytes(model(CatalogFile("a", SOURCE, bytes=1_000_000), rough)) == "about 49.1"


def test_a_bar_does_not_end_a_cell() -> None:
    page = models_page(Catalog([CatalogEntry("x", "asr", "y", remark="a|b")]))
    assert "a\\|b" in page


def test_the_page_shows_what_suits_each_board(packaged: Catalog) -> None:
    (section,) = re.findall(r"## What suits a board\n(.*?)\n## ", models_page(packaged), re.DOTALL)
    head, _, *lines = rows(section)
    assert head[0] == "--language"
    boards = ", ".join(head[1:])
    assert all(soc.upper() in boards for soc in (*STRONG_SOCS, *WEAK_SOCS)) and "without an NPU" in boards
    for language, *cells in lines:
        for cell, column in zip(cells, head[1:], strict=True):
            for board in column.split(", "):
                soc = board.lower() if board.startswith("R") else None
                assert re.findall("`([^`]+)`", cell) == [entry.name for entry in defaults(packaged, language, soc)]
