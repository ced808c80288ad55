"""Weights of the original VSGNet under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from terrafuse.decoders import convert_segformer_state_dict
from terrafuse.weights import rename

#: Original names → ours, in this order; "e" and "_2" are the structure's.
_RENAMES = (
    (r"^downsample_layers\.0\.", "stems.image."),
    (r"^downsample_layers_e\.0\.", "stems.structure."),
    (r"^dn\.", "token_stems.image."),
    (r"^dn_e\.", "token_stems.structure."),
    (r"^downsample_layers\.(\d+)\.", r"scales.\1.down.0."),
    (r"^downsample_layers_e\.(\d+)\.", r"scales.\1.down.1."),
    (r"^fe\.(\d+)\.(\d+)\.", r"scales.\1.blocks.\2."),
    (r"^FRlist\.(\d+)\.", r"scales.\1.recalibration."),
    (r"\.recalibration\.c1\.", ".recalibration.contents.0."),
    (r"\.recalibration\.c2\.", ".recalibration.contents.1."),
    (r"\.MLP_1\.", ".channel_gates.0."),
    (r"\.MLP_2\.", ".channel_gates.1."),
    (r"\.proj1\.", ".projections.0."),
    (r"\.proj2\.", ".projections.1."),
    (r"\.layer_scale_1(_e)?$", r".scale_attention\1"),
    (r"\.layer_scale_2(_e)?$", r".scale_mlp\1"),
    (r"(\.scale_\w+)_e$", r"\1_guide"),
    (r"\.mlp_e2\.", ".mlp_guide."),
    (r"(\.mlp\w*)\.pos\.", r"\1.depthwise."),
    (r"\.attn\.", ".attention."),
    (r"\.attention\.norm_e\.", ".attention.norm_structure."),
    (r"\.attention\.l\.", ".attention.context."),
    (r"\.attention\.kv\.", ".attention.attention.key_value."),
    (r"\.attention\.short_cut_linear\.", ".attention.attention.query."),
    (r"\.attention\.q_cut\.", ".attention.gate.cut."),
    (r"\.attention\.e_fore\.", ".attention.gate.before."),
    (r"\.attention\.e_conv\.", ".attention.gate.depthwise."),
    (r"\.attention\.e_back\.", ".attention.gate.after."),
    (r"\.attention\.proj\.", ".attention.project."),
    (r"\.attention\.proj_e\.", ".attention.project_structure."),
)
#: Layers of every FE that the original has and never runs.
_UNUSED = re.compile(r"\.attn\.(q|a|conv)\.")


def convert_reference_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the original's trainable part, wired as its figure has it, under our names.

    Left out is what it never runs: three layers of each FE, and what the last FR would make for a
    structure stream that ends there. Frozen transformers and normalisation statistics are no part.

    Args:
        state: Original names (`downsample_layers`, `dn`, `fe`, `FRlist`, `decode_head`).
    """
    scales = [int(found[1]) for name in state if (found := re.match(r"FRlist\.(\d+)\.", name))]
    ends = f"FRlist.{max(scales, default=0)}.proj2."
    head = "decode_head."
    converted = {}
    for name, value in state.items():
        if _UNUSED.search(name) or name.startswith((ends, head)):
            continue
        converted[rename(name, _RENAMES)] = value
    decoder = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
    return converted | {f"decoder.{k}": v for k, v in convert_segformer_state_dict(decoder).items()}
