"""The contract's base class: checks, normalisation, scales, padding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from terrafuse.errors import InputShapeError, MissingModalityError, ModelError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput

SCALES = (0.5, 1.0, 2.0, 2.5, 3.0, 20.0)


class Recorder(Segmenter):
    """Keeps what it receives and returns the first band of the first modality."""

    supports_missing = True

    def __init__(self, modalities: Sequence[Modality], num_classes: int = 1) -> None:
        super().__init__(modalities, num_classes)
        self.seen: Inputs | None = None

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        self.seen = inputs
        logits = inputs.images[self.modalities[0].name][:, :1]
        return SegmenterOutput(logits, aux_logits=(logits[..., ::2, ::2],))


class OwnScales(Recorder):
    own_scales = True


class NeedsAll(Recorder):
    supports_missing = False


def _statistics(mean: float, std: float, bands: int = 1) -> BandStatistics:
    return BandStatistics((mean,) * bands, (std,) * bands, (0.0,) * bands, (1.0,) * bands, (1,))


def _ramp(size: tuple[int, int], scale: float) -> Tensor:
    """Per pixel, row and column of its centre in scene pixels: (1, 2, H, W)."""
    rows, cols = ((torch.arange(n) + 0.5) * scale for n in size)
    return torch.stack(torch.meshgrid(rows, cols, indexing="ij"))[None]


def _run(
    cls: type[Recorder], scale: float, size: tuple[int, int], stride: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    modality = Modality("m", ("row", "col"), scale=scale)
    model = cls([modality])
    model.stride = stride
    own = modality.size_at(size[0]), modality.size_at(size[1])
    model({"m": _ramp(own, scale)})
    assert model.seen is not None
    return model.seen.images["m"], model.seen.valid["m"], model.seen.size


@pytest.mark.parametrize("cls", [Recorder, OwnScales])
@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from(SCALES),
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    stride=st.sampled_from([1, 14, 28, 32]),
)
def test_modalities_stay_in_register(
    cls: type[Recorder], scale: float, rows: int, cols: int, stride: int
) -> None:
    """A ramp in scene coordinates comes out as the same ramp, whatever scale and padding."""
    unit = lcm(20, Fraction(scale).numerator)
    size = rows * unit, cols * unit
    images, valid, padded = _run(cls, scale, size, stride)
    for axis in (0, 1):
        target = images.shape[2 + axis]
        assert target % stride == 0
        assert padded[axis] == -(-size[axis] // stride) * stride
        step = padded[axis] / target  # scene pixels per pixel that the method sees
        centres = (torch.arange(target) + 0.5) * step
        # Up to half a pixel of the coarser grid from the rim there is nothing to interpolate with.
        rim = max(scale, step)
        inside = (centres > rim) & (centres < size[axis] - rim)
        values = images[0, axis].movedim(axis, 0)
        error = values[inside][:, valid[0, 0].movedim(axis, 0)[inside].all(dim=0)] - centres[
            inside
        ].view(-1, 1)
        assert error.numel() == 0 or error.abs().max() < 1e-3
        # What has data is what the window covers, to half a pixel.
        covered = valid[0, 0].any(dim=1 - axis)
        assert covered[centres < size[axis] - rim / 2].all()
        assert not covered[centres > size[axis] + rim / 2].any()


@pytest.mark.parametrize("scale", [2.0, 3.0, 20.0])
def test_values_at_the_rim_are_not_drawn_to_the_mean(scale: float) -> None:
    """Padding beyond the window, and gaps within, do not mix into what has data."""
    modality = Modality("m", ("a",), scale=scale)
    model = Recorder([modality])
    image = torch.full((1, 1, modality.size_at(60), modality.size_at(60)), 7.0)
    image[..., 0, 0] = torch.nan
    model({"m": image})
    assert model.seen is not None
    seen, valid = model.seen.images["m"], model.seen.valid["m"]
    torch.testing.assert_close(seen[valid], torch.full_like(seen[valid], 7.0))
    assert (seen[~valid] == 0).all()
    assert valid[0, 0, 30, :60].all()
    assert not valid[..., 60:].any()
    gap = round(scale)
    assert not valid[0, 0, : gap // 2, : gap // 2].any()


def test_shrinking_averages() -> None:
    """A modality at half the scene's pixel size loses no energy to aliasing."""
    model = Recorder([Modality("m", ("a",), scale=0.5)])
    image = torch.zeros(1, 1, 128, 128)
    image[..., ::2] = 1.0  # alternating columns
    model({"m": image})
    assert model.seen is not None
    inside = model.seen.images["m"][..., 4:-4, 4:-4]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=0.01, rtol=0)


def test_each_backbone_may_have_its_own_stride() -> None:
    model = OwnScales([Modality("a", ("x",)), Modality("b", ("x",), scale=2.0)])
    model.stride, model.strides = 32, {"a": 32, "b": 28}
    model({"a": torch.zeros(1, 1, 50, 70), "b": torch.zeros(1, 1, 25, 35)})
    assert model.seen is not None
    assert model.seen.size == (64, 96)
    assert model.seen.images["a"].shape[-2:] == (64, 96)
    assert model.seen.images["b"].shape[-2:] == (56, 56)


@given(height=st.integers(1, 70), width=st.integers(1, 70), stride=st.sampled_from([1, 8, 32]))
@settings(max_examples=30, deadline=None)
def test_logits_cover_the_window_exactly(height: int, width: int, stride: int) -> None:
    """Padding is cut off again: an identity gives the window back, and says what it padded."""
    model = Recorder([Modality("m", ("a",))])
    model.stride = stride
    image = torch.randn(2, 1, height, width)
    output = model({"m": image})
    assert torch.equal(output.logits, image)
    assert output.aux_logits[0].shape == image.shape
    assert model.seen is not None
    assert model.seen.images["m"][..., height:, :].abs().sum() == 0
    assert not model.seen.valid["m"][..., width:].any()


def test_coarse_logits_are_brought_to_the_window() -> None:
    class Coarse(Recorder):
        def segment(self, inputs: Inputs) -> SegmenterOutput:
            # One value per 4 × 4 pixels, taken at the middle of each.
            image = nn.functional.avg_pool2d(inputs.images["m"], 4)
            return SegmenterOutput(image)

    model = Coarse([Modality("m", ("row", "col"))], num_classes=2)
    ramp = _ramp((60, 44), 1.0)
    logits = model({"m": ramp}).logits
    inside = slice(4, 32)
    torch.testing.assert_close(logits[..., inside, inside], ramp[..., inside, inside])


def test_normalisation_is_stored_and_applied() -> None:
    model = Recorder([Modality("m", ("a", "b"))])
    model.set_statistics(
        {"m": BandStatistics((10.0, 20.0), (2.0, 4.0), (0.0, 0.0), (1.0, 1.0), (9, 9))}
    )
    image = torch.tensor([12.0, 12.0]).view(1, 2, 1, 1).repeat(1, 1, 32, 32)
    image[0, 1, 0, 0] = torch.nan
    model({"m": image})
    assert model.seen is not None
    assert model.seen.images["m"][0, :, 1, 1].tolist() == [1.0, -2.0]
    assert model.seen.images["m"][0, :, 0, 0].tolist() == [1.0, 0.0], "NaN becomes the mean"
    assert model.seen.valid["m"][0, 0, 0, 0], "one band of two has data"
    other = Recorder([Modality("m", ("a", "b"))])
    other.load_state_dict(model.state_dict())
    assert other.mean_m.tolist() == [10.0, 20.0]


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({}, "no statistics for modality 'm'"),
        ({"m": _statistics(1.0, 0.0)}, "band 'a' of modality 'm' is constant"),
        ({"m": _statistics(1.0, float("nan"))}, "band 'a' of modality 'm' is constant"),
    ],
)
def test_useless_statistics_are_refused(
    statistics: dict[str, BandStatistics], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Recorder([Modality("m", ("a",))]).set_statistics(statistics)


@settings(max_examples=200, deadline=None)
@given(
    cls=st.sampled_from([Recorder, OwnScales]),
    scale=st.sampled_from(SCALES),
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    stride=st.sampled_from([1, 2, 8, 32]),
)
# 32 pixels, the size to which the window of 16 is padded, which are 64 of this modality.
@example(cls=Recorder, scale=0.5, rows=2, cols=2, stride=32)
def test_windows_that_are_whole_are_prepared_like_others(
    cls: type[Recorder], scale: float, rows: int, cols: int, stride: int
) -> None:
    """Such as 16 pixels of a modality of half the scene's pixels, with a stride of 32."""
    modality = Modality("m", ("a", "b"), scale=scale)
    model = cls([modality])
    model.stride = stride
    step = lcm(modality.scale_ratio.numerator, 8)
    sizes = [int(step * n / modality.scale_ratio) for n in (rows, cols)]
    image = torch.randn(2, 2, *sizes, generator=torch.Generator().manual_seed(rows))
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        for is_whole in (True, False):
            if not is_whole:
                patch.setattr("terrafuse.segmenter._is_whole", lambda *_: False)
            logits = model({"m": image}).logits
            assert model.seen is not None
            seen.append((logits, model.seen.images["m"], model.seen.valid["m"]))
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


RGB, SAR = Modality("rgb", ("r", "g", "b")), Modality("sar", ("vv",), scale=2.0)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"images hold \[\]; this model takes rgb, sar"),
        ({"rgp": (1, 3, 8, 8)}, r"images hold \['rgp'\]"),
        (
            {"rgb": (1, 2, 8, 8)},
            r"'rgb' has shape \(1, 2, 8, 8\); expected \(N, 3, H, W\).*r, g, b",
        ),
        ({"rgb": (3, 8, 8)}, "'rgb' has shape"),
        ({"rgb": (1, 3, 8, 8), "sar": (1, 1, 8, 8)}, "do not show the same ground: .*scale 2"),
        ({"rgb": (2, 3, 8, 8), "sar": (1, 1, 4, 4)}, "do not show the same ground"),
    ],
)
def test_wrong_inputs_are_named(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputShapeError, match=message):
        Recorder([RGB, SAR])({name: torch.zeros(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("cls", [Recorder, OwnScales])
@pytest.mark.parametrize("seed", range(4))
def test_a_graph_prepares_what_the_model_prepares(cls: type[Recorder], seed: int) -> None:
    """Values and masks of every scale, with gaps of bands, of pixels and of a whole sample."""
    generator = torch.Generator().manual_seed(seed)
    scales = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 2.5}
    model = cls([Modality(name, ("x", "y"), scale=scale) for name, scale in scales.items()])
    model.set_statistics({name: _statistics(0.3, 1.5, 2) for name in scales})
    model.stride = 8
    size = (model.size_unit * 2, model.size_unit * (2 + seed % 2))
    images = {
        m.name: torch.randn(2, 2, *map(m.size_at, size), generator=generator)
        for m in model.modalities
    }
    for image in images.values():
        image[torch.rand(image.shape, generator=generator) < 0.3] = torch.nan
        image[1, :, 3:9, 2:7] = torch.nan
    images["d"][0] = torch.nan
    own, whole = model.prepare(images, {}, size), model.prepare_whole(images, size)
    assert own.size == whole.size
    for name, mask in own.valid.items():
        assert torch.equal(whole.valid[name], mask)
        assert mask.float().mean() < 1
        torch.testing.assert_close(whole.images[name], own.images[name], rtol=1e-5, atol=1e-5)


def test_an_absent_modality_is_zeros_nowhere_valid() -> None:
    model = Recorder([RGB, SAR])
    model({"rgb": torch.ones(2, 3, 8, 8, dtype=torch.float64)})
    assert model.seen is not None
    assert model.seen.images["sar"].dtype == torch.float32
    assert model.seen.images["sar"].abs().sum() == 0
    assert model.seen.present("sar").tolist() == [False, False]
    model({"rgb": torch.full((2, 3, 8, 8), torch.nan), "sar": torch.ones(2, 1, 4, 4)})
    assert model.seen.present("rgb").tolist() == [False, False]
    assert model.seen.present("sar").tolist() == [True, True]


def test_valid_masks_take_pixels_out() -> None:
    model = Recorder([RGB])
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[0, 0] = False
    model({"rgb": torch.ones(1, 3, 8, 8)}, {"rgb": valid})
    assert model.seen is not None
    assert model.seen.images["rgb"][0, 0, :2, 0].tolist() == [0.0, 1.0]
    assert model.seen.valid["rgb"][0, 0, :2, 0].tolist() == [False, True]


def test_a_method_that_needs_all_says_which_is_absent() -> None:
    model = NeedsAll([RGB, SAR])
    rgb, sar = torch.ones(2, 3, 8, 8), torch.ones(2, 1, 4, 4)
    with pytest.raises(MissingModalityError, match=r"NeedsAll needs every modality; .* here: sar"):
        model({"rgb": rgb})
    sar[1] = torch.nan
    with pytest.raises(MissingModalityError, match="sar"):
        model({"rgb": rgb, "sar": sar})
    with pytest.raises(MissingModalityError, match="rgb"):
        model({"rgb": rgb, "sar": torch.ones(2, 1, 4, 4)}, {"rgb": torch.zeros(2, 8, 8).bool()})


def test_the_number_of_modalities_is_checked() -> None:
    class Two(Recorder):
        num_modalities = (2, 2)

    with pytest.raises(ModelError, match=r"Two takes 2 modalities, got 1 \(rgb\)"):
        Two([RGB])
