"""`weights: hub`, and timm's, against a hub: the right file, or one message why not."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import huggingface_hub.file_download as downloads
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from golden_files import load_golden, part
from hub_server import Hub, serving_hub, use_hub
from remedies import refused
from terrafuse.backbones import CROMA, DOFA, create_backbone
from terrafuse.backbones.base import Backbone
from terrafuse.backbones.galileo.encoder import GalileoEncoder
from terrafuse.backbones.galileo.weights import VARIANTS
from terrafuse.backbones.registry import hub_location
from terrafuse.backbones.timm.models import PUBLISHED_FILES
from terrafuse.errors import ChecksumError, WeightsNotFoundError
from terrafuse.modalities import Modality
from terrafuse.weights import read_weights

_S1 = Modality("sar", ("VV", "VH"), "sar")
_S2 = Modality("optical", tuple(f"B{i}" for i in ("01", "02", "03", "04", "05", "06", "07", "08",
                                                  "8A", "09", "11", "12")), "optical")  # fmt: skip
_DOFA: dict[str, Any] = {
    "img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2,
    "dynamic_embed_dim": 8, "neck": "none",
}  # fmt: skip
_CROMA: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 16, "neck": "none"}
_SAM: dict[str, Any] = {
    "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "global_attn_indexes": (1,),
}  # fmt: skip
_SETS = {"ms": (0.49, None)}


@dataclass(frozen=True)
class Published:
    """A family whose weights lie on the hub.

    Args:
        repository: "owner/name".
        file: Its file there.
        build: Builds the model with them.
        make: Makes the values that the file holds.
        value: Names of one value: in the file, and in the model.
        key: In `PUBLISHED_FILES`, where its digest is; None where none is known.
    """

    repository: str
    file: str
    build: Callable[[], Backbone]
    make: Callable[[], Mapping[str, Any]]
    value: tuple[str, str]
    key: str | None

    def content(self) -> bytes:
        values = self.make()
        if self.file.endswith(".safetensors"):
            return safetensors.torch.save(dict(values))
        file = io.BytesIO()
        torch.save(values, file)
        return file.getvalue()


def _random(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {name: torch.randn_like(value) for name, value in state.items()}


def _galileo() -> dict[str, Tensor]:
    torch.manual_seed(5)
    encoder = GalileoEncoder(VARIANTS["galileo_nano"])
    return encoder.state_dict() | {"pos_embed": encoder.dates, "month_embed.weight": encoder.months}


def _croma() -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in part(load_golden("croma/encoder")[0], "sd.").items():
        group, _, inner = name.partition(".")
        groups.setdefault(group, {})[inner] = value
    return groups


_NANO = "nasaharvest/galileo/models/nano/encoder.pt"
FAMILIES = {
    "dofa": Published(
        "torchgeo/dofa",
        "dofa_base_patch16_224-a0275954.pth",
        lambda: DOFA("dofa_base_patch16", _SETS, weights="hub", **_DOFA),
        lambda: _random(DOFA("dofa_base_patch16", _SETS, **_DOFA).vit.state_dict()),
        ("blocks.1.mlp.fc1.weight", "vit.blocks.1.mlp.fc1.weight"),
        "dofa_base_patch16_224-a0275954.pth",
    ),
    "croma": Published(
        "torchgeo/croma",
        "CROMA_base-0238d814.pt",
        lambda: CROMA("croma_base", [_S1], [_S2], weights="hub", **_CROMA),
        _croma,
        ("s2_encoder.transformer.norm_out.weight", "optical.norm.weight"),
        "CROMA_base-0238d814.pt",
    ),
    "galileo": Published(
        "nasaharvest/galileo",
        "models/nano/encoder.pt",
        lambda: create_backbone("galileo_nano", 2, weights="hub", modalities=[_S1], neck="none"),
        _galileo,
        ("blocks.1.mlp.fc1.weight", "vit.blocks.1.mlp.fc1.weight"),
        f"hf://{_NANO}",
    ),
    "sam": Published(
        "timm/samvit_base_patch16.sa1b",
        "model.safetensors",
        lambda: create_backbone("samvit_base_patch16", 3, weights="timm", neck="none", **_SAM),
        lambda: _random(
            timm.create_model("samvit_base_patch16", num_classes=0, **_SAM).state_dict()
        ),
        ("blocks.1.mlp.fc1.weight", "vit.blocks.1.mlp.fc1.weight"),
        None,
    ),
}
DIGESTED = [name for name, family in FAMILIES.items() if family.key]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as served:
        use_hub(served.address, tmp_path, monkeypatch)
        monkeypatch.setattr("time.sleep", lambda _: None)  # before a download is resumed
        yield served


@pytest.fixture
def serve(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Function that puts a family's file on the hub, with its digest known; its content."""

    def put(family: Published, file: str | None = None) -> bytes:
        content = family.content()
        hub.repository(family.repository).commit({file or family.file: content})
        if family.key:
            digest = hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(PUBLISHED_FILES, family.key, (digest, "mit"))  # type: ignore[arg-type]
        return content

    return put


@pytest.mark.parametrize("name", FAMILIES)
def test_the_published_file_is_fetched_once(
    name: str, hub: Hub, serve: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    serve(family)
    backbone = family.build()
    assert backbone.pretrained is not None
    stored: Any = family.make()
    group, _, inner = family.value[0].partition(".")
    expected = stored[group][inner] if group in stored else stored[family.value[0]]
    found = {n: v for n, v in backbone.state_dict().items() if n.endswith(family.value[1])}
    assert torch.equal(next(iter(found.values())), expected)
    sent = len(hub.asked("GET", family.file))
    assert sent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    family.build()
    assert len(hub.asked("GET", family.file)) == sent


@pytest.mark.parametrize("name", DIGESTED)
def test_every_name_of_the_family_has_a_place(name: str) -> None:
    """Names as they are written down; those of DOFA and CROMA carry their digest."""
    names = {"dofa": ("dofa_base_patch16", "dofa_large_patch16"),
             "croma": ("croma_base_sar", "croma_large_optical"),
             "galileo": ("galileo_nano", "galileo_tiny", "galileo_base")}[name]  # fmt: skip
    for own in names:
        repository, file = FAMILIES[name].repository, hub_location(own).rpartition("/")[2]
        assert hub_location(own).startswith(f"hf://{repository}/")
        stem = file.rpartition(".")[0]
        digest, _ = PUBLISHED_FILES.get(file, (None, ""))
        assert "-" not in stem or stem.endswith(f"-{digest}")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_another_name_is_not_taken(
    name: str, hub: Hub, serve: Callable[..., bytes]
) -> None:
    family = FAMILIES[name]
    serve(family, "renamed.pth")
    with pytest.raises(WeightsNotFoundError) as error:
        family.build()
    assert f"('{family.repository}' holds no such file)" in str(error.value)
    assert family.repository in str(error.value).partition(" cannot be ")[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_repository_that_is_not_there(name: str, hub: Hub) -> None:
    family = FAMILIES[name]
    with pytest.raises(WeightsNotFoundError) as error:
        family.build()
    assert f"{hub.address} has no repository '{family.repository}', or it is a" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_download_that_breaks_off(
    name: str, hub: Hub, serve: Callable[..., bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    family, get = FAMILIES[name], downloads.http_get
    serve(family)
    hub.breaks[family.file] = 1
    family.build()  # resumed
    for file in (tmp_path / "hub").rglob("*"):
        if file.is_file():
            file.unlink()
    hub.breaks[family.file] = -1

    def once(*args: Any, **kwargs: Any) -> None:
        """As after five times in vain."""
        get(*args, **{**kwargs, "_nb_retries": 0})

    monkeypatch.setattr(downloads, "http_get", once)
    with pytest.raises(WeightsNotFoundError, match="peer closed connection without sending"):
        family.build()
    assert not list((tmp_path / "hub").rglob(family.file))
    hub.breaks.clear()
    assert family.build().pretrained is not None


def nearly(content: bytes) -> bytes:
    """Another content, whose digest begins with the same digit."""
    digit = hashlib.sha256(content).hexdigest()[0]
    others = (content[:-2] + bytes([value, 255 - value]) for value in range(256))
    return next(
        other
        for other in others
        if other != content and hashlib.sha256(other).hexdigest()[0] == digit
    )


@pytest.mark.parametrize("name", DIGESTED)
def test_a_file_with_another_digest(
    name: str, hub: Hub, serve: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    content = serve(family)
    other = nearly(content)
    hub.instead[family.file] = other
    place = "weights.files:_checked | Give the path of the published one instead"
    with refused(place, ChecksumError) as error:
        family.build()
    for value in (other, content):
        assert hashlib.sha256(value).hexdigest() in error
    hub.instead.clear()  # only damaged on the way here: it is replaced
    assert family.build().pretrained is not None


def test_a_damaged_file_without_the_hub(
    hub: Hub, serve: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["dofa"]
    content = serve(family)
    family.build()
    (file,) = (tmp_path / "hub").rglob(family.file)
    file.resolve().write_bytes(content[:-1] + b"?")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused("weights.files:_checked | Go where there is a network: it is", ChecksumError):
        family.build()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    family.build()
    assert file.read_bytes() == content


def test_a_name_that_the_hub_does_not_know(hub: Hub, tmp_path: Path) -> None:
    values = {"w": torch.ones(2)}
    safetensors.torch.save_file(values, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    hub.repository("owner/name").commit({"w.safetensors": content})
    place = "weights.files:_fetch | Check its name and try again, or give the path of a file"
    with refused(place, WeightsNotFoundError):
        read_weights("hf://owner/name/v.safetensors")
    assert read_weights("hf://owner/name/w.safetensors")["w"].sum() == 2
    assert read_weights(tmp_path / "w.safetensors")["w"].sum() == 2
