"""Tiny models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_sam(folder: Path) -> None:
    """A Segment Anything of 40 000 parameters."""
    import transformers as t

    config = t.SamConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 4,
            "global_attn_indexes": [1], "mlp_dim": 64, "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    t.SamModel(config).save_pretrained(folder)
    processor = t.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    t.SamProcessor(processor).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- x\n---\n# Tiny\n")


def save_sam2(folder: Path) -> None:
    """A SAM 2 of half a million parameters."""
    import transformers as t

    backbone = t.Sam2HieraDetConfig(
        hidden_size=12, num_attention_heads=1, image_size=[128, 128],
        blocks_per_stage=[1, 2, 7, 2], embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 2, 4, 8], window_size_per_stage=[8, 4, 14, 7],
        global_attention_blocks=[5, 7, 9], window_positional_embedding_background_size=[7, 7],
    )  # fmt: skip
    config = t.Sam2Config(
        vision_config=t.Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=[96, 48, 24, 12],
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]], fpn_hidden_size=32,
        ),
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16, "iou_head_depth": 3,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    t.Sam2Model(config).save_pretrained(folder)
    processor = t.Sam2ImageProcessor(
        size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32}
    )
    t.Sam2Processor(processor).save_pretrained(folder)


def depth_config(**changes: Any) -> Any:
    """Configuration of a tiny Depth Anything."""
    import transformers as t

    backbone = t.Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    return t.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 8, 8, 16],
        fusion_hidden_size=8, head_hidden_size=8, **changes,
    )  # fmt: skip


def save_depth(folder: Path, config: Any) -> None:
    """A tiny Depth Anything, whose depth is large enough to be seen in float32."""
    import transformers as t

    torch.manual_seed(0)
    network = t.DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith(("neck", "head")):
                value.copy_(torch.rand_like(value) * 0.04)
    network.save_pretrained(folder)
    t.DPTImageProcessor(
        size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True
    ).save_pretrained(folder)
