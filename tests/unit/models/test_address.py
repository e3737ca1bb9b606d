"""Addresses that users give."""

import pytest

from wyoming_rknn.errors import UsageError
from wyoming_rknn.models.address import is_address, read
from wyoming_rknn.models.catalog_entry import CatalogSource

HUB = "https://huggingface.co"
REPO, PATH = "rhasspy/piper-voices", "de/de_DE/otto/low/de_DE-otto-low.onnx"


def test_what_an_address_is() -> None:
    assert is_address("https://example.org/a.onnx")
    assert is_address("ftp://example.org/a.onnx")
    assert not is_address("C:/a.onnx")
    assert not is_address("de_DE-otto-low")


def test_a_voice_and_its_config_beside_it() -> None:
    given = read("https://example.org/a%20b/otto.onnx?key=1&x=/#top")
    assert (given.name, given.file, given.is_archive) == ("otto", "otto.onnx", False)
    assert given.source == CatalogSource(url="https://example.org/a%20b/otto.onnx?key=1&x=/")
    assert given.config == CatalogSource(url="https://example.org/a%20b/otto.onnx.json?key=1&x=/")
    assert [file.name for file in given.model().files] == ["otto.onnx", "otto.onnx.json"]
    assert read("https://example.org/..%2Fotto.onnx").name == "otto"
    assert [file.name for file in read("http://a/b.onnx", "emil").model().files] == ["emil.onnx", "emil.onnx.json"]


@pytest.mark.parametrize("name", ["v1.2.tar.bz2", "v1.2.TAR.GZ", "v1.2.tgz", "v1.2.zip"])
def test_archives(name: str) -> None:
    given = read(f"https://example.org/{name}?x=1")
    assert (given.name, given.file, given.is_archive) == ("v1.2", name, True)
    assert [file.name for file in given.model().files] == [name]
    assert read(f"https://example.org/{name}", "emil").name == "emil"


@pytest.mark.parametrize("kind", ["resolve", "blob", "raw"])
@pytest.mark.parametrize("hub", [HUB, "https://mirror.example", "https://mirror.example/hub/"])
def test_files_of_a_hub(hub: str, kind: str) -> None:
    given = read(f"{hub.rstrip('/')}/{REPO}/{kind}/v1.0.0/{PATH}?download=true", hubs=(hub,))
    assert given.source == CatalogSource(REPO, "v1.0.0", PATH)
    assert given.config == CatalogSource(REPO, "v1.0.0", f"{PATH}.json")
    assert given.name == "de_DE-otto-low"


def test_other_repositories_of_a_hub() -> None:
    assert read(f"{HUB}/datasets/me/voices/blob/refs%2Fpr%2F1/otto.zip").source == CatalogSource(
        "datasets/me/voices", "refs/pr/1", "otto.zip"
    )
    # A folder may be called so, too.
    assert read(f"{HUB}/me/voices/resolve/main/raw/blob/otto.zip").source.path == "raw/blob/otto.zip"


@pytest.mark.parametrize("page", [REPO, f"{REPO}/tree/main/de", f"{REPO}/blob/main", "me", f"{REPO}/resolve/main/"])
def test_pages_of_a_hub_are_no_files(page: str) -> None:
    with pytest.raises(UsageError, match=r"is a page of a repository, not a file of it; give the address of a voice's"):
        read(f"{HUB}/{page}")


def test_what_a_mirror_serves_besides_is_no_page() -> None:
    mirror = "https://mirror.example"
    assert read(f"{mirror}/files/otto.zip", hubs=(mirror,)).source == CatalogSource(url=f"{mirror}/files/otto.zip")
    with pytest.raises(UsageError, match="is a page of a repository"):
        read(f"{mirror}/{REPO}/tree/main", hubs=(mirror,))


@pytest.mark.parametrize("address", ["ftp://example.org/a.onnx", "https://", "https:///a.onnx", "file:///a.onnx"])
def test_other_addresses(address: str) -> None:
    with pytest.raises(UsageError, match=r"is no http:// or https:// address; give"):
        read(address)


@pytest.mark.parametrize("path", ["", "/", "a.rknn", "a.onnx.json", "a/", "voice"])
def test_addresses_of_other_things(path: str) -> None:
    with pytest.raises(UsageError, match="is the address of nothing that can be installed; give"):
        read(f"https://example.org/{path}")


@pytest.mark.parametrize("file", [".onnx", ".zip", "a%0A.onnx"])
def test_names_that_lead_astray(file: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        read(f"https://example.org/{file}")
    assert file == ".zip" or read(f"https://example.org/{file}", "emil").model().files[0].name == "emil.onnx"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://me:SECRET@x.example/a.onnx", "https://x.example/a.onnx cannot be fetched with a name and password"),
        ("https://SECRET@x.example/a.onnx", "https://x.example/a.onnx cannot be fetched with a name and password"),
        ("https://me:SEC/RET@x.example/a.onnx", "is no http:// or https:// address; give"),
        ("https://me:SEC?RET@x.example/a.onnx", "is no http:// or https:// address; give"),
        ("https://[SECRET/a.onnx", "is no http:// or https:// address; give"),
        ("ftp://me:SECRET@x.example/a.onnx?key=SECRET", "'ftp://x.example/a.onnx' is no http:// or https:// address"),
        ("https://x.example/a?key=SECRET", "https://x.example/a is the address of nothing"),
        (f"{HUB}/{REPO}?key=SECRET", f"{HUB}/{REPO} is a page"),
    ],
)
def test_what_may_be_secret_is_not_told(address: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(address)
    assert told in str(caught.value)
    assert "SEC" not in str(caught.value) and "RET" not in str(caught.value)
