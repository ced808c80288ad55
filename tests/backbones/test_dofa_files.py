"""Published checkpoints of DOFA: what is in them, what is left out, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from torch import Tensor

from remedies import refused
from terrafuse.backbones import DOFA, hub_location
from terrafuse.backbones.timm.models import PUBLISHED_FILES
from terrafuse.errors import ChecksumError, WeightsMismatchError, WeightsNotFoundError
from terrafuse.weights import digest, without_pretrained

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2,
    "dynamic_embed_dim": 8, "neck": "none",
}  # fmt: skip
SETS = {"ms": (0.49, None)}


def _state(name: str) -> dict[str, Tensor]:
    """What is used of a file of the authors."""
    torch.manual_seed(5)
    state = DOFA(name, SETS, **TINY).vit.state_dict()
    return {key: torch.randn_like(value) for key, value in state.items()}


def _as_published(name: str) -> dict[str, Tensor]:
    """With what else is in such a file."""
    state = _state(name)
    if "v2" not in name:
        extra = ("mask_token", "norm.weight", "norm.bias", "projector.weight", "projector.bias")
        return state | {key: torch.zeros(3) for key in (*extra, "head.weight", "fc_norm.bias")}
    inner = {k if k.startswith("patch_embed") else f"model.{k}": v for k, v in state.items()}
    return inner | {k: torch.zeros(3) for k in ("norm.weight", "model.norm.weight", "norm.bias")}


@pytest.mark.parametrize("name", ["dofa_base_patch16", "dofa_v2_base_patch14"])
@pytest.mark.parametrize("wrapper", [None, "model"])
def test_files_of_the_authors(name: str, wrapper: str | None, tmp_path: Path) -> None:
    file = tmp_path / "dofa.pth"
    state = _as_published(name)
    torch.save(state if wrapper is None else {wrapper: state}, file)
    dofa = DOFA(name, SETS, weights=str(file), **TINY)
    expected = _state(name)
    assert dofa.vit.state_dict().keys() == expected.keys()
    for key, value in dofa.vit.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert dofa.pretrained is not None
    assert dofa.pretrained.source == str(file)
    # Bands without a wavelength start from the weights, not from what was there before.
    red = dofa.vit.patch_embed.embed_wavelengths(torch.tensor([0.665]))
    assert torch.equal(dofa.pseudo_bands["ms"], red)
    early = DOFA(name, SETS, weights=str(file), **TINY | {"out_indices": [1]})
    assert len(early.blocks) == 2
    assert torch.equal(early.blocks[1].mlp.fc1.weight, expected["blocks.1.mlp.fc1.weight"])


def test_files_that_do_not_fit_say_why(tmp_path: Path) -> None:
    name, file = "dofa_base_patch16", tmp_path / "dofa.pth"
    state = _as_published(name)

    def load(**options: Any) -> DOFA:
        return DOFA(name, SETS, weights=str(file), **TINY | options)

    torch.save(state, file)
    with pytest.raises(
        WeightsMismatchError, match=r"other shape: .* pos_embed is 1×5×16, expected 1×5×32"
    ):
        load(embed_dim=32)
    with pytest.raises(WeightsMismatchError, match=r"missing: blocks\.3\.norm1\.weight"):
        load(depth=4)
    with pytest.raises(WeightsMismatchError, match=r"unexpected: blocks\.2\.norm1\.weight"):
        load(depth=2)
    place = "backbones.dofa.encoder:_check_positions | : images may have any size all the same"
    with refused(place, WeightsMismatchError) as error:
        load(img_size=64)
    load(img_size=int(error.find(r"for 4 patches, .* Give img_size (\d+):")))
    torch.save(state | {"decoder.weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsMismatchError, match=r"unexpected: decoder\.weight"):
        load()
    torch.save({k: v for k, v in state.items() if k != "pos_embed"}, file)
    with pytest.raises(WeightsMismatchError, match="missing: pos_embed"):
        load()


def test_a_file_of_a_published_name_must_be_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = hub_location("dofa_base_patch16")
    assert location == "hf://torchgeo/dofa/dofa_base_patch16_224-a0275954.pth"
    file = tmp_path / Path(location).name
    torch.save(_as_published("dofa_base_patch16"), file)
    with pytest.raises(ChecksumError, match="expected a0275954"):
        DOFA("dofa_base_patch16", SETS, weights=str(file), **TINY)
    first = digest(file)[:8]
    monkeypatch.setitem(PUBLISHED_FILES, file.name, (first, "cc-by-4.0"))  # type: ignore[arg-type]
    dofa = DOFA("dofa_base_patch16", SETS, weights=str(file), **TINY)
    assert dofa.pretrained is not None
    assert dofa.pretrained.licence == "cc-by-4.0"


def test_the_hub_is_named_where_it_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")
    with pytest.raises(
        WeightsNotFoundError, match=r"dofa_base_patch16_224-a0275954\.pth' is not o"
    ):
        DOFA("dofa_base_patch16", SETS, weights="hub", **TINY)
    with pytest.raises(
        WeightsNotFoundError, match=r"no published weights for 'dofa_small_patch16'"
    ):
        DOFA("dofa_small_patch16", SETS, weights="hub", **TINY)
    with pytest.raises(WeightsNotFoundError, match=r"Choose weights 'hub' for the published ones"):
        DOFA("dofa_base_patch16", SETS, weights="timm", **TINY)
    with without_pretrained():
        assert DOFA("dofa_base_patch16", SETS, weights="hub", **TINY).pretrained is None
