"""A block of two streams, of which one guides the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from terrafuse.fusion.guided import GuidedBlock


class _Updates(nn.Module):
    """Attention whose updates are 1 and 2 everywhere."""

    def forward(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(x), torch.full_like(guide, 2.0)


def test_what_is_left_of_a_branch_keeps_its_mean() -> None:
    """A quarter of the samples goes without; the others get 4/3 of it. Each stream draws anew."""
    torch.manual_seed(0)
    block = GuidedBlock(_Updates(), 3, 5, mlp_ratio=1, drop_path=0.25, layer_scale_init=0.5)
    nn.init.zeros_(block.scale_mlp)
    assert block.scale_mlp_guide is not None
    nn.init.zeros_(block.scale_mlp_guide)
    x, guide = torch.zeros(400, 2, 2, 3), torch.zeros(400, 2, 2, 5)
    with torch.no_grad():
        for found, whole in zip(block.train()(x, guide), (0.5, 1.0), strict=True):
            of_sample = found[:, 0, 0, 0]
            assert torch.equal(found, of_sample[:, None, None, None].expand_as(found))
            kept = of_sample > 0
            torch.testing.assert_close(
                of_sample[kept], torch.full((int(kept.sum()),), whole / 0.75)
            )
            assert 0.65 < float(kept.float().mean()) < 0.85
            assert not of_sample[~kept].any()
        first, second = (stream[:, 0, 0, 0] > 0 for stream in block(x, guide))
        assert not torch.equal(first, second)
        first, second = block.eval()(x, guide)
        assert bool((first == 0.5).all())
        assert bool((second == 1.0).all())
