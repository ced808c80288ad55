"""Masked autoencoding: what is hidden is not seen, and only it is compared, where it has data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from small_backbones import make, train_a_little
from terrafuse.backbones import COLOUR, DOFA, TokenBackbone, create_backbone
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality
from terrafuse.pretraining import MaskedAutoencoding, Masking

S1 = Modality("s1", ("vv", "vh"), kind="sar")
S2 = Modality("s2", ("red", "nir", "z"), kind="optical")
S2_WAVES = Modality("s2", ("red", "nir"), kind="optical", wavelengths_um=(0.665, 0.84))
SMALL: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def vit(bands: int) -> TokenBackbone:
    found = make("vit", bands, neck="none")
    assert isinstance(found, TokenBackbone)
    return found


def dofa(*modalities: Modality) -> DOFA:
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depth": 2, "num_heads": 2, "dynamic_embed_dim": 8}
    found = create_backbone(
        "dofa_base_patch16", 1, modalities=modalities, one_image=False, neck="none", patch_size=8,
        img_size=64, **options,
    )  # fmt: skip
    assert isinstance(found, DOFA)
    return train_a_little(found)  # type: ignore[no-any-return]


def noise(modality: Modality, samples: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, len(modality.bands), *size, generator=generator)


def everywhere(image: Tensor) -> Tensor:
    return torch.ones_like(image[:, :1], dtype=torch.bool)


def mean_of_hidden(
    pixels: Tensor, image: Tensor, known: Tensor, mask: Masking, patch: int, normalized: bool
) -> float:
    """The loss, patch by patch and value by value in plain Python."""
    errors = []
    cols = image.shape[3] // patch
    for sample in range(len(image)):
        for place in torch.nonzero(mask.hidden[sample]).flatten().tolist():
            row, col = place // cols * patch, place % cols * patch
            part = image[sample, :, row : row + patch, col : col + patch].double()
            there = known[sample, :, row : row + patch, col : col + patch].expand_as(part)
            values = part[there]
            if not len(values):
                continue
            if normalized:
                values = (values - values.mean()) / (values.var() + 1e-6).sqrt()
            found = pixels[sample, place].double().reshape(part.shape)[there]
            errors += ((found - values) ** 2).tolist()
    return sum(errors) / len(errors)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (16, 96)])
def test_loss_is_that_of_hidden_patches_with_data(size: tuple[int, int], normalized: bool) -> None:
    model = MaskedAutoencoding({"s1": vit(2)}, [S1], normalize_pixels=normalized, **SMALL).eval()
    image = noise(S1, 3, size)
    known = everywhere(image)
    known[0, :, : size[0] // 2] = False
    known[1, :, 3:9, 5:30] = False
    image = torch.where(known, image, 0.0)
    mask = Masking.draw(3, size[0] * size[1] // 256, 0.5, image.device)
    with torch.no_grad():
        pixels, _ = model.reconstruct("s1", image, mask)
        losses = model({"s1": image}, {"s1": known}, {"s1": mask})
    expected = mean_of_hidden(pixels, image, known, mask, 16, normalized)
    assert losses["s1"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("encoder", ["vit", "dinov2", "dofa"])
def test_what_is_hidden_is_not_seen(encoder: str) -> None:
    network = dofa(S1) if encoder == "dofa" else make(encoder, 2, neck="none")
    assert isinstance(network, TokenBackbone)
    model = MaskedAutoencoding({"s1": network}, [S1], **SMALL).eval()
    patch = network.patch_size
    image = noise(S1, 1, (4 * patch, 6 * patch))
    keep = torch.tensor([[0, 7, 23]])
    mask = Masking.of(keep, 24)
    other = image.clone()
    for place in torch.nonzero(mask.hidden[0]).flatten().tolist():
        row, col = place // 6 * patch, place % 6 * patch
        # The published embedding of DOFA reads one pixel up and left of a patch.
        other[..., row : row + patch - 1, col : col + patch - 1] += 5
    with torch.no_grad():
        before, _ = model.reconstruct("s1", image, mask)
        after, _ = model.reconstruct("s1", other, mask)
        seen = image.clone()
        seen[..., patch + 2 : 2 * patch, patch + 2 : 2 * patch] += 5  # of place 7
        changed, _ = model.reconstruct("s1", seen, mask)
    assert torch.equal(before, after)
    assert not torch.allclose(before, changed, atol=1e-3)


def test_encoder_is_that_of_the_whole_image_where_all_is_kept() -> None:
    network = vit(2)
    network.eval()
    image = noise(S1, 2, (48, 64))
    tokens, grid = network.embed(image)
    whole = network.run_blocks(tokens, grid)
    last = network(image)[-1]
    assert torch.allclose(network._patches_as_map(whole, grid), last, atol=1e-6)


def test_sensors_share_a_dofa_and_are_masked_for_themselves() -> None:
    network = dofa(S1, S2_WAVES)
    encoders = {"s1": network, "s2": network}
    model = MaskedAutoencoding(encoders, [S1, S2_WAVES], **SMALL)
    images = {"s1": noise(S1, 2, (40, 32)), "s2": noise(S2_WAVES, 2, (40, 32), 1)}
    known = {name: everywhere(image) for name, image in images.items()}
    torch.manual_seed(3)
    losses = model(images, known)
    assert list(losses) == ["s1", "s2"]
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    masks = {name: model.reconstruct(name, image)[1].hidden for name, image in images.items()}
    assert not torch.equal(masks["s1"], masks["s2"])
    assert all(int(hidden.sum()) == 2 * 15 for hidden in masks.values())


def test_three_bands_of_every_sensor_for_a_shared_transformer() -> None:
    network = vit(len(COLOUR.bands))
    model = MaskedAutoencoding({"s1": network, "s2": network}, [S1, S2], True, **SMALL)
    images = {"s1": noise(S1, 1, (32, 48)), "s2": noise(S2, 1, (32, 48), 1)}
    assert model.reconstruct("s1", images["s1"])[0].shape == (1, 6, 2 * 256)
    assert model.reconstruct("s2", images["s2"])[0].shape == (1, 6, 3 * 256)


def test_samples_that_lack_a_sensor_do_not_count() -> None:
    model = MaskedAutoencoding({"s1": vit(2), "s2": vit(3)}, [S1, S2], **SMALL)
    images = {"s1": noise(S1, 3, (32, 32)), "s2": noise(S2, 3, (32, 32), 1)}
    known = {name: everywhere(image) for name, image in images.items()}
    known["s1"][1] = False
    known["s2"][:] = False
    mask = Masking.of(torch.tensor([[0], [2]]), 4)
    losses = model(images, known, {"s1": mask})
    kept = {"s1": images["s1"][[0, 2]], "s2": images["s2"][[0, 2]]}
    some = {name: everywhere(image) for name, image in kept.items()}
    alone = model(kept, some, {"s1": mask, "s2": mask})
    assert torch.equal(losses["s1"], alone["s1"])
    assert losses["s2"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["samvit", "dinov3", "eva02"])
def test_transformers_that_need_all_patches_are_refused(name: str) -> None:
    network = make(name, 2, neck="none")
    assert isinstance(network, TokenBackbone)
    with pytest.raises(ModelError, match=r"hides patches.*Choose dofa_\*"):
        MaskedAutoencoding({"s1": network}, [S1], **SMALL)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mask_ratio": 1.0}, "'mask_ratio' is 1"),
        ({"mask_ratio": 0.0}, "'mask_ratio' is 0"),
        ({"decoder_dim": 18}, "width 18 with 2 heads"),
        ({"decoder_heads": 3}, "width 16 with 3 heads"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        MaskedAutoencoding({"s1": vit(2)}, [S1], **SMALL | options)
