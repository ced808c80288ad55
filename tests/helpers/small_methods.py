"""Small options of every method, for the contract tests.

A method whose defaults are too large for a test adds its options to `SMALL`.
"""

from __future__ import annotations

from typing import Any

RESNET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
    "decoder": "upernet",
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
    },
    "decoder": "segformer",
    "decoder_options": {"channels": 8},
}  # fmt: skip
DOFA: dict[str, Any] = VIT | {
    "backbone": "dofa_base_patch16",
    "backbone_options": VIT["backbone_options"] | {"dynamic_embed_dim": 8},
}
TINY_SAM: dict[str, Any] = {
    "backbone": "samvit_base_patch16",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
        "window_size": 3, "global_attn_indexes": [1],
    },
    "decoder_options": {"channels": 8, "num_heads": 2, "window_size": 2},
}  # fmt: skip
SYNERGY: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64},
    "vem": {"dim": 8, "heads": 2},
    "decoder": "upernet",
    "neck_channels": 8,
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
SYNERGY_DOFA: dict[str, Any] = SYNERGY | {
    "backbone": "dofa_base_patch16",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "dynamic_embed_dim": 16,
    },
}  # fmt: skip
STRUCTURE: dict[str, Any] = {
    "backbone": "vit_base_patch14_reg4_dinov2",
    "backbone_options": {"embed_dim": 64, "depth": 1, "num_heads": 2, "img_size": 28},
    "channels": [8, 12],
    "depths": [1, 2],
    "num_heads": [1, 2],
    "mlp_ratios": [2, 1],
    "decoder_options": {"channels": 8},
}
MCANET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": RESNET["backbone_options"],
    "low_channels": 6,
    "high_channels": 8,
}
MIT: dict[str, Any] = {
    "backbone": "mit_b0",
    "backbone_options": {"channels": [8, 8, 10, 16], "depths": [1, 1, 1, 1]},
    "decoder_options": {"channels": 8},
}
CROMA: dict[str, Any] = {
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8},
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
DFORMER: dict[str, Any] = {
    "backbone": "dformer_tiny",
    "backbone_options": {
        "channels": [8, 8, 12, 16], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4],
        "mlp_ratios": [2, 2, 1, 1], "layer_scale_init": 0.5,
    },
    "decoder_options": {"channels": 8, "ham_channels": 8, "rank": 4},
}  # fmt: skip
DECUR: dict[str, Any] = {
    "backbone_options": {"channels": [4, 4, 8, 16], "layers": [1, 1, 1, 1]},
    "channels": [4, 6, 8],
}
AMMFUSENET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": RESNET["backbone_options"],
    "projection_channels": 4,
    "context_channels": 6,
    "hidden_channels": 8,
}
SSLVIT: dict[str, Any] = {
    "backbone_options": {
        "embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
        "img_size": 64,
    },
}  # fmt: skip
GALILEO: dict[str, Any] = {
    "backbone": "galileo_nano",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8, "patch_size": 8,
        "scaling": "data",
    },
    "decoder_options": {"channels": 8},
}  # fmt: skip
GALILEO_UPSEG: dict[str, Any] = {
    "backbone": "galileo_nano",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "scaling": "data",
    },
}  # fmt: skip
TINY_DECODER: dict[str, Any] = {"decoder_options": {"channels": 8, "num_heads": 2}}

#: Per method, small options to test it with; a method that is not here is tested with its defaults.
SMALL: dict[str, list[dict[str, Any]]] = {
    "dformer": [
        DFORMER,
        DFORMER | {"backbone": "dformer_v2_base", "tuning": "lora"},
        DFORMER | {"backbone": "dformer_v2_small", "norm": "group"},
        DFORMER | {"norm": "group", "decoder": "segformer", "decoder_options": {"channels": 8}},
    ],
    "cmx": [
        MIT,
        RESNET | {"aux": True, "norm": "group", "reduction": 2},
        MIT | {"tuning": "lora"},
    ],
    "sslvit": [SSLVIT, SSLVIT | {"tuning": "lora"}],
    "decur": [
        DECUR,
        DECUR | {"attention": True, "tuning": "norms"},
        DECUR | {"decoder": "upernet", "decoder_options": {"channels": 8, "bins": [1, 2]}},
    ],
    "croma": [CROMA, CROMA | {"features": "concat", "tuning": "lora", "aux": False}],
    "single": [RESNET, VIT | {"tuning": "prompt"}, DOFA | {"tuning": "lora"}],
    "ammfusenet": [
        AMMFUSENET,
        AMMFUSENET | {"output_stride": 8, "rates": [2, 4], "tuning": "bitfit"},
        AMMFUSENET | {"output_stride": 32, "norm": "group"},
    ],
    "early_fusion": [
        RESNET | {"tuning": "norms"},
        VIT | {"validity_channels": True},
        DOFA | {"tuning": "frozen", "validity_channels": True},
    ],
    "late_fusion": [
        RESNET,
        VIT | {"fusion": "gated", "tuning": "adapter+lora"},
        RESNET | {"fusion": "concat", "aux": True, "tuning": "bitfit"},
        DOFA,
        GALILEO | {"decoder": "segformer", "tuning": "lora"},
    ],
    "galileo": [
        GALILEO,
        GALILEO | {"fusion": "gated", "tuning": "lora"},
        GALILEO
        | {
            "fusion": "concat",
            "tuning": "prompt",
            "aux": True,
            "backbone_options": GALILEO["backbone_options"]
            | {"subtract_reference": True, "stem_channels": 4, "final_norm": False},
        },
        GALILEO
        | {
            "fusion": "sum",
            "tuning": "frozen",
            "decoder": "linear",
            "decoder_options": {},
            "backbone_options": GALILEO_UPSEG["backbone_options"]
            | {"neck": "none", "out_indices": [-1], "subtract_reference": True},
        },
    ],
    "mcanet": [
        MCANET,
        MCANET | {"renormalized": True, "scaled": True, "output_stride": 16, "tuning": "norms"},
        MCANET | {"attention": "none", "output_stride": 32, "norm": "group"},
    ],
    "mfnet": [
        TINY_SAM | {"tuning": "adapter"},
        TINY_SAM | {"tuning": "lora"},
        VIT | {"tuning": "dora", "decoder": "segformer"},
        RESNET | {"tuning": "full", "decoder": "unetformer"} | TINY_DECODER,
        TINY_SAM | {"tuning": "frozen", "deep_fusion": False},
        DOFA | {"tuning": "adapter"},
        GALILEO | {"tuning": "lora", "decoder": "segformer"},
    ],
    "pagnet": [
        {"variant": "mobile", "channels": 8, "key_channels": 4, "num_heads": 2},
        {"channels": 8, "key_channels": 4, "views": 2, "tuning": "norms"},
        {"variant": "mobile", "gate": "replaced", "graph": False},
    ],
    "upseg": [
        SYNERGY,
        SYNERGY_DOFA,
        SYNERGY_DOFA | {"tuning": "lora", "interact_stages": [1], "decoder": "light"},
        SYNERGY | GALILEO_UPSEG | {"tuning": "lora"},
        SYNERGY_DOFA | {"tuning": "full", "grid": "own", "wave_delta": True},
        SYNERGY
        | {"grid": "own", "prompt": {"pool": 2}, "tuning": "lora", "interact_stages": [1, 2]},
        SYNERGY
        | {"vem": {"kind": "content", "dim": 8}, "prompt": {"kind": "summary"}, "aux": False},
        SYNERGY | {"vem": {"kind": "differential", "dim": 8}, "fusion": "concat1x1"},
        SYNERGY | {"vem": {"kind": "project", "dim": 8}, "schedule": "two-pass", "tuning": "full"},
        SYNERGY | {"interact_stages": [], "fusion": "mean_unique", "gate": {"scope": "shared"}},
        SYNERGY | {"vem": {"kind": "none"}, "prompt": {"source": "self"}, "fusion": "mean"},
        SYNERGY
        | {
            "prompt": {"kind": "aligned", "hosts": ["rgb"]},
            "decoder": "segformer",
            "decoder_options": {"channels": 8},
        },
    ],
    "vsgnet": [
        STRUCTURE,
        STRUCTURE
        | {
            "backbone": {"image": "vit_tiny_patch16_224", "structure": None},
            "softmax": "plain",
            "spatial_gate": "sigmoid",
            "tokens": "raw",
            "norm": "group",
            "channels": [8, 12, 16],
            "depths": [1, 1, 1],
            "num_heads": [1, 1, 2],
            "mlp_ratios": [2, 2, 1],
        },
    ],
}
