"""Which catalogues count, and that a change of one is seen."""

import json
import os

from wyoming_rknn.models.catalogs import LiveCatalog, catalog_files, load_catalog, updated_file
from wyoming_rknn.settings import Settings


def write(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"models": [{"name": name, "kind": "tts", "format": "piper"} for name in names]}))


def names(catalog):
    return {entry.name for entry in catalog.entries}


def test_data_folders_go_before_what_was_updated_and_all_before_the_packages_list(tmp_path):
    settings = Settings(data_dir=(tmp_path / "a", tmp_path / "b"), cache_dir=tmp_path / "cache")
    assert catalog_files(settings) == (
        tmp_path / "a" / "catalog.json",
        tmp_path / "b" / "catalog.json",
        updated_file(settings),
    )
    packaged = names(load_catalog(settings))
    assert "en_US-amy-low" in packaged
    write(tmp_path / "b" / "catalog.json", "mine")
    write(updated_file(settings), "new")
    assert names(load_catalog(settings)) == packaged | {"mine", "new"}


def test_a_catalogue_is_read_anew_when_a_file_of_it_comes_changes_or_goes(tmp_path):
    path = tmp_path / "catalog.json"
    live = LiveCatalog([path, tmp_path / "none.json"])
    first = live.now()
    assert live.now() is first
    write(path, "mine")
    second = live.now()
    assert names(second) == names(first) | {"mine"}
    assert live.now() is second
    write(path, "ours")
    os.utime(path, ns=(0, 0))
    assert names(live.now()) == names(first) | {"ours"}
    path.unlink()
    assert names(live.now()) == names(first)
