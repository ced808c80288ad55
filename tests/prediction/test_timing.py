import pytest
import torch

from terrafuse.errors import ConfigError
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.prediction import describe_device, forward_seconds

MODALITIES = (Modality("a", ("x", "y")), Modality("b", ("z",), scale=2.0))


def test_times_what_it_runs_and_leaves_the_mode() -> None:
    segmenter = create_segmenter("late_fusion", MODALITIES, 2, {"backbone": "resnet10t"})
    sizes: list[tuple[int, ...]] = []
    segmenter.register_forward_pre_hook(
        lambda model, args: (
            sizes.extend(tuple(x.shape) for x in args[0].values()) or modes.append(model.training)
        )  # type: ignore[func-returns-value]
    )
    modes: list[bool] = []
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seconds = forward_seconds(segmenter.train(), 64, device="cpu", passes=2)
    assert 0 < seconds < 60
    assert sizes == [(1, 2, 64, 64), (1, 1, 32, 32)] * 3  # one more than is timed
    assert modes == [False] * 3
    assert segmenter.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="device 'nonsense' cannot be used"):
        describe_device("nonsense")
    assert "cores" in describe_device("cpu")
