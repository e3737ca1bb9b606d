"""How decoders for the NPU are to be fed, found out from their files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_rknn import DECODER, Shapes, write_rknn

from wyoming_rknn.errors import ModelFileMissing, ModelInvalid
from wyoming_rknn.models.formats.piper_npu import NpuDecoder, npu_decoder

MEDIUM = ["/dec/ups.2/ConvTranspose_output_0-rs", "/dec/resblocks.0/convs.1/Conv_output_0-rs", "workflow/x"]
HIGH = ["dec.ups.3.weight", "dec.resblocks.0.convs1.2.weight", "dec.resblocks.0.convs2.2.weight"]
FLOW = ["/flow/flows.6/enc/in_layers.0/Conv_output_0-rs"]
FLOW_BESIDE_DECODER = ["flow.flows.0.enc.in_layers.0.bias", *MEDIUM]


def decoder(
    tmp_path: Path,
    width: int = 55,
    names: Sequence[str] = (),
    *,
    latents: str = "z",
    channels: int = 192,
    size: int = 0,
    more: Shapes | None = None,
    manifest: Path | None = None,
) -> NpuDecoder:
    inputs = {latents: (1, channels, width), **(more or {})}
    path = write_rknn(tmp_path / "decoder.rknn", inputs, {"output": (1, 1, 1, width * 256)}, names=names, size=size)
    return npu_decoder(path, manifest)


def manifest_of(path: Path, **graph: Any) -> Path:
    graphs = [{"file": "decoder.rknn", "golden": "decoder.golden.npz", "frames": 55, "context_frames": 13, **graph}]
    content = {"format": 1, "layout": "piper-parts", "name": "v", "files": {}, "graphs": graphs}
    path.write_text(json.dumps(content))
    return path


def test_roles_of_inputs_and_outputs(tmp_path: Path) -> None:
    inputs = {"g": (1, 512, 1), "y_mask": (1, 1, 55), "z": (1, 192, 55), "cond": (1, 256)}
    path = write_rknn(tmp_path / "d.rknn", inputs, {"lengths": (1, 7), "audio": (1, 1, 14_080)})
    found = npu_decoder(path, golden=tmp_path / "golden.npz")
    assert (found.file, found.golden) == (path, tmp_path / "golden.npz")
    assert (found.input, found.mask, found.output) == ("z", "y_mask", "audio")
    assert (found.channels, found.frames, found.hop) == (192, 55, 256)
    assert found.conditions == ("g", "cond")
    assert dict(found.condition_shapes) == {"g": (1, 512, 1), "cond": (1, 256)}


def test_without_mask_and_conditions(tmp_path: Path) -> None:
    found = decoder(tmp_path, 32, MEDIUM, channels=96)
    assert (found.mask, found.conditions, found.channels, found.frames) == (None, (), 96, 32)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"image": (1, 3, 224, 224)}, {"classes": (1, 1000)}),
        ({"z": (1, 192, 1)}, DECODER[1]),
        ({"z": (2, 192, 55)}, DECODER[1]),
        ({"z": (1, 192, 55), "z2": (1, 192, 55)}, DECODER[1]),
        ({"z": (1, 192, 55), "m": (1, 1, 55), "m2": (1, 1, 55)}, DECODER[1]),
        ({"z": (1, 192, 55), "sid": ()}, DECODER[1]),
        ({"z": (1, 192, 55), "image": (1, 3, 8, 8)}, DECODER[1]),
        ({"z": (1, 192, 55)}, {"output": (1, 1, 14_081)}),
        ({"z": (1, 192, 55)}, {"output": (1, 1, 55)}),
        ({"mel": (1, 192, 55)}, {"mag": (1, 513, 55)}),
    ],
)
def test_what_is_no_decoder(inputs: Shapes, outputs: Shapes, tmp_path: Path) -> None:
    path = write_rknn(tmp_path / "d.rknn", inputs, outputs)
    with pytest.raises(ModelInvalid, match=r"d\.rknn is no decoder of a Piper voice: .*models convert"):
        npu_decoder(path)


@pytest.mark.parametrize(
    ("names", "context"), [(MEDIUM, 11), (HIGH, 14), ([*MEDIUM, *HIGH], 14), (["ConvTranspose"], 14), ([], 14)]
)
def test_context_without_a_flow(names: Sequence[str], context: int, tmp_path: Path) -> None:
    found = decoder(tmp_path, names=names)
    assert (found.flow_inside, found.context_frames, found.margin_is_short) == (False, context, False)


@pytest.mark.parametrize(
    ("width", "names", "context", "is_short"),
    [
        (256, FLOW_BESIDE_DECODER, 43, False),
        (256, [*FLOW, *HIGH], 46, False),
        (128, FLOW, 43, False),
        (118, FLOW, 43, False),
        (110, FLOW, 40, True),
        (55, FLOW_BESIDE_DECODER, 20, True),
        (32, FLOW, 11, True),
        (2, FLOW, 0, True),
    ],
)
def test_context_with_the_flow_inside(
    width: int, names: Sequence[str], context: int, is_short: bool, tmp_path: Path
) -> None:
    found = decoder(tmp_path, width, names)
    assert (found.flow_inside, found.context_frames, found.margin_is_short) == (True, context, is_short)
    assert width - 2 * context > 0


@pytest.mark.parametrize(
    ("names", "latents", "channels", "size", "flow_inside"),
    [
        ([], "z_p", 192, 0, True),
        ([], "z", 192, 5_400_000, False),
        ([], "z", 96, 3_700_000, False),
        ([], "z", 192, 19_200_000, True),
        ([], "z", 96, 7_300_000, True),
        (MEDIUM, "z", 96, 7_300_000, False),
        (HIGH, "z", 192, 31_500_000, False),
    ],
)
def test_what_tells_whether_the_flow_is_inside(
    names: Sequence[str], latents: str, channels: int, size: int, flow_inside: bool, tmp_path: Path
) -> None:
    found = decoder(tmp_path, 128, names, latents=latents, channels=channels, size=size)
    assert found.flow_inside is flow_inside


def test_what_the_manifest_says_is_taken(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "manifest.json")
    found = decoder(tmp_path, names=FLOW, manifest=manifest)
    assert (found.flow_inside, found.context_frames, found.margin_is_short) == (False, 13, False)
    # Converted with open eyes: few frames of each window are used, but those are exact.
    narrow = decoder(tmp_path, 32, manifest=manifest_of(manifest, frames=32, context_frames=14))
    assert (narrow.context_frames, narrow.margin_is_short) == (14, False)
    none_left = decoder(tmp_path, 28, manifest=manifest_of(manifest, frames=28, context_frames=14))
    assert (none_left.context_frames, none_left.margin_is_short) == (10, True)


def test_manifests_that_say_nothing_of_the_decoder(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    for content in ("{}", "[", '{"layout": "qwen3"}', manifest_of(manifest, file="other.rknn").read_text()):
        manifest.write_text(content)
        assert decoder(tmp_path, names=MEDIUM, manifest=manifest).context_frames == 11
    assert decoder(tmp_path, names=MEDIUM, manifest=manifest_of(manifest, context_frames=None)).context_frames == 11


def test_a_manifest_of_another_decoder(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"takes 63 frames, .*manifest\.json says 55"):
        decoder(tmp_path, 63, manifest=manifest_of(tmp_path / "manifest.json"))


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing):
        npu_decoder(tmp_path / "d.rknn")
    (tmp_path / "d.rknn").write_bytes(b"RKNN")
    with pytest.raises(ModelInvalid, match="cut short"):
        npu_decoder(tmp_path / "d.rknn")
