"""Conversion of weights of the original DFormer, versions 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from terrafuse.backbones import fit_bands
from terrafuse.decoders import convert_hamburger_state_dict
from terrafuse.weights import rename

#: Original names of version 1 → ours, in this order; "e" marks the depth stream.
_FIRST = (
    (r"^downsample_layers\.(\d)\.", r"downs.\1.0."),
    (r"^downsample_layers_e\.(\d)\.", r"downs.\1.1."),
    (r"\.layer_scale_1(_e)?$", r".scale_attention\1"),
    (r"\.layer_scale_2(_e)?$", r".scale_mlp\1"),
    (r"(\.scale_\w+)_e$", r"\1_guide"),
    (r"\.mlp_e2\.", ".mlp_guide."),
    (r"(\.mlp\w*)\.pos\.", r"\1.depthwise."),
    (r"\.attn\.(norm|proj)_e\.", r".attention.<\1>_guide."),
    (r"\.attn\.(norm|proj)\.", r".attention.<\1>."),
    (r"<proj>", "project"),
    (r"<norm>", "norm"),
    (r"\.attn\.q\.", ".attention.query."),
    (r"\.attn\.l\.", ".attention.context."),
    (r"\.attn\.a\.", ".attention.after."),
    (r"\.attn\.conv\.", ".attention.depthwise."),
    (r"\.attn\.kv\.", ".attention.attention.key_value."),
    (r"\.attn\.short_cut_linear\.", ".attention.attention.query."),
    (r"\.attn\.q_cut\.", ".attention.gate.cut."),
    (r"\.attn\.e_fore\.", ".attention.gate.before."),
    (r"\.attn\.e_conv\.", ".attention.gate.depthwise."),
    (r"\.attn\.e_back\.", ".attention.gate.after."),
)
#: Likewise for version 2.
_SECOND = (
    (r"^patch_embed\.proj\.", "stem."),
    (r"^layers\.(\d)\.blocks\.", r"stages.\1.blocks."),
    (r"^layers\.(\d)\.downsample\.reduction\.", r"downs.\1.0."),
    (r"^layers\.(\d)\.downsample\.norm\.", r"downs.\1.1."),
    (r"^extra_norms\.", "norms."),
    (r"^(stages\.\d)\.blocks\.", r"\1."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.Attention\.out_proj\.", ".attn.proj."),
    (r"\.Attention\.lepe\.dwconv\.", ".attn.local."),
    (r"\.Attention\.", ".attn."),
    (r"\.ffn\.dwconv\.dwconv\.", ".mlp.depthwise."),
    (r"\.ffn\.", ".mlp."),
    (r"\.cnn_pos_encode\.dwconv\.", ".positions."),
    (r"\.Geo\.weight$", ".prior.weight"),
    (r"\.gamma_([12])$", r".scale\1"),
)
#: Buffers of version 2 that follow from sizes.
_DERIVED = re.compile(r"\.Geo\.(angle|decay)$")
_ENCODER = re.compile(r"^(downs|stages|stem|norms)\.")


def convert_reference_state_dict(
    state: Mapping[str, Tensor], bands: Sequence[int] = (3, 1), rank: int = 64
) -> dict[str, Tensor]:
    """Rename weights of the original DFormer, of its encoder or of the whole model.

    Normalisation statistics are not part of the original; add those of the data. Most files expect
    images with bands in the order blue, green, red. Initial bases of the decoder are not included
    either; ours are added if there is a decoder.

    Args:
        state: Original names, with or without "backbone." before those of the encoder. An unknown
            name is kept, for `load_strict` to report.
        bands: Number of bands of image and X. First convolutions for three and for one are adapted
            to other numbers (`fit_bands`, in band order).
        rank: R of the decoder.
    """
    encoder: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    second = any("patch_embed." in name for name in state)
    for name, value in state.items():
        if name.startswith("decode_head."):
            head[name.removeprefix("decode_head.")] = value
        elif not _DERIVED.search(name):
            ours = rename(name.removeprefix("backbone."), _SECOND if second else _FIRST)
            flat = ours.endswith((".prior.weight", ".scale1", ".scale2"))
            encoder[ours] = value.flatten() if flat else value
    firsts = ("stem.0.weight",) if second else ("downs.0.0.0.weight", "downs.0.1.0.weight")
    for first, wanted in zip(firsts, bands, strict=False):
        if first in encoder:
            encoder[first] = fit_bands(encoder[first], wanted, in_order=True)
    converted = {f"encoder.{k}" if _ENCODER.match(k) else k: v for k, v in encoder.items()}
    decoder = convert_hamburger_state_dict(head, rank)
    return converted | {f"decoder.{k}": v for k, v in decoder.items()}
