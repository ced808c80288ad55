"""Names of MiT's values: those of the original authors and of `transformers`, old and new."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from terrafuse.weights import rename

#: Beside the encoder in published files: classifier or decoder.
_HEADS = re.compile(r"^(head|classifier|decode_head|auxiliary_head)\.")
_PREFIXES = re.compile(r"^(segformer\.|backbone\.)?(encoder\.)?")

#: Names inside a stage, the authors' → ours, in this order. "N" is the stage, counted from 0.
_AUTHORS = (
    (r"^patch_embed(\d)\.proj\.", r"stages.<\1>.patch_embeddings.proj."),
    (r"^patch_embed(\d)\.norm\.", r"stages.<\1>.patch_embeddings.layer_norm."),
    (r"^norm(\d)\.", r"stages.<\1>.layer_norm."),
    (r"^block(\d)\.(\d+)\.", r"stages.<\1>.blocks.\2."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.q\.", ".attention.q_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attn\.norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attn\.kv\.", ".attention.kv."),
)
#: The same of `transformers` before version 5.
_TRANSFORMERS = (
    (r"^patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
    (r"^layer_norm\.(\d)\.", r"stages.\1.layer_norm."),
    (r"^block\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.layer_norm_1\.", ".layernorm_before."),
    (r"\.layer_norm_2\.", ".layernorm_after."),
    (r"\.attention\.self\.query\.", ".attention.q_proj."),
    (r"\.attention\.self\.key\.", ".attention.k_proj."),
    (r"\.attention\.self\.value\.", ".attention.v_proj."),
    (r"\.attention\.self\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attention\.self\.layer_norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)


def convert_mit_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of a MiT under the names of `MiT`, whoever wrote them.

    A classifier or decoder beside the encoder is left out. A name that nobody gave stays as it is,
    for `load_strict` to report.

    Args:
        state: Names of the authors ("block1.0.attn.q.weight"), with or without "backbone.", or of
            `transformers` ("segformer.encoder.block.0.0.attention.self.query.weight",
            "stages.0.blocks.0.attention.q_proj.weight").
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if _HEADS.match(key):
            continue
        # The authors count stages from 1.
        name = rename(_PREFIXES.sub("", key), (*_AUTHORS, *_TRANSFORMERS))
        if ".attention.kv." not in name:
            converted[name] = value
            continue
        # One layer makes keys, then values.
        for which, half in zip("kv", torch.chunk(value, 2), strict=True):
            converted[name.replace(".kv.", f".{which}_proj.")] = half
    return converted
