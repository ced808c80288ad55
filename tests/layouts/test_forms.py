"""The forms in which benchmarks circulate: recognised, described, trained on and scored.

Each is described by one command without a layout; what its manifest must say is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import published_sets as published
from terrafuse.data import load_manifest
from terrafuse.layouts.facts import read_facts

# Copies are tiny and have no place on Earth; what is told of them has tests of its own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("without_figures"),
]

CONFIGS = Path(__file__).parents[2] / "configs"
CommandLine = Callable[..., tuple[int, str, str]]

VAIHINGEN, POTSDAM = (read_facts(name).split("official") for name in ("vaihingen", "potsdam"))
#: mmsegmentation calls the official test scenes "val".
MMSEG = {
    name: {id: "train" if part == "train" else "val" for id, part in lists.items()}
    for name, lists in (("vaihingen", VAIHINGEN), ("potsdam", POTSDAM))
}
COLORS = ["#ffffff", "#0000ff", "#00ffff", "#00ff00", "#ffff00", "#ff0000"]
GF2 = "GF2_PMS1__L1A0001064454-MSS1"
#: Backbones small enough for a test.
SMALL: dict[str, dict[str, Any]] = {
    "upseg": {
        "weights": None, "neck_channels": 16, "decoder_options.channels": 16,
        "backbone_options.embed_dim": 32, "backbone_options.depth": 4,
        "backbone_options.num_heads": 2, "backbone_options.dynamic_embed_dim": 32,
    },
    "mfnet": {
        "backbone_options.embed_dim": 32, "backbone_options.depth": 2,
        "backbone_options.num_heads": 2, "backbone_options.global_attn_indexes": [1],
    },
    "compare": {"weights": None, "decoder_options.channels": 8, "backbone": "resnet18"},
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A form, its command, and what its manifest must say.

    Args:
        make: Writes a tiny copy.
        seen: Start of what is told to be recognised.
        splits: Scenes per split.
        codes: Of the classes, in order.
        void: Raw values that are no class.
        modalities: Modality → bands, and the bands of the file they are, from 1.
        scene: One scene as it must stand there, with its split.
        words: Further words of the command.
        run: Shipped file that trains on it.
        settings: To be replaced in that file.
        slow: Whether the run is left to the slow tests; others take the same way.
    """

    make: Callable[[Path], Path]
    seen: str
    splits: Mapping[str, int]
    codes: list[Any]
    void: list[Any]
    modalities: Mapping[str, tuple[list[str], list[int] | None]]
    scene: Mapping[str, str]
    words: tuple[str, ...] = ()
    run: str = "compare/whu_opt_sar"
    settings: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = True


ALLOW = ("-O", "incomplete=allow")
IRRG, RGB = ["nir", "red", "green"], ["red", "green", "blue"]
ISPRS_VOID = ["#000000"]
FULL: Mapping[str, Any] = {"evaluation.reference": "labels"}  # no eroded ones in the copy
POTSDAM_SCENE = {
    "id": "2_10", "split": "train", "rgb": "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif",
    "ndsm": "1_DSM_normalisation/dsm_potsdam_02_10_normalized_lastools.jpg",
}  # fmt: skip
POTSDAM_BOTH = {"rgb": (RGB, [1, 2, 3]), "ndsm": (["height"], None)}
AS_MFNET = ("-O", "modalities=rgb,ndsm")
IRRG_ALONE: Mapping[str, Any] = {"data.modalities": ["irrg"], "data.normalization": {}}
HUNAN = {"cropland": 0, "forest": 1, "grassland": 2, "wetland": 3, "water": 4, "built-up area": 5,
         "unused land": 6}  # fmt: skip
BILLIONS = {"rgb": (RGB, [2, 3, 4]), "nir": (["nir"], [1])}

FORMS: dict[str, Form] = {
    "whu, as published": Form(
        published.make_whu, "WHU-OPT-SAR (layout 'whu-opt-sar'",
        {"train": 60, "val": 20, "test": 20}, [10, 20, 30, 40, 50, 60, 70], [0],
        {"optical": (["blue", "green", "red", "nir"], None), "sar": (["sar"], None)},
        {"id": "NH49E001014", "split": "test", "optical": "optical/NH49E001014.tif",
         "sar": "sar/NH49E001014.tif", "labels": "lbl/NH49E001014.tif"},
        (), "upseg/whu_opt_sar",
    ),
    "whu, the authors' split": Form(
        lambda root: published.make_whu(root, divisor=10, optical="opt"),
        "WHU-OPT-SAR (layout 'whu-opt-sar'",
        {"train": 60, "val": 20, "test": 20}, [1, 2, 3, 4, 5, 6, 7], [0],
        {"optical": (["blue", "green", "red", "nir"], None), "sar": (["sar"], None)},
        {"id": "NH49E001013", "split": "val", "optical": "opt/NH49E001013.tif",
         "sar": "sar/NH49E001013.tif", "labels": "lbl/NH49E001013.tif"},
        ("-O", "split=authors"), "upseg/whu_opt_sar",
    ),
    "gid-5, as published": Form(
        published.make_gid5, "GID-5 (layout 'gid-5'", {"test": 30, "train": 107, "val": 13},
        ["#ff0000", "#00ff00", "#00ffff", "#ffff00", "#0000ff"], ["#000000"], BILLIONS,
        {"id": GF2, "split": "test",
         "rgb": f"Large-scale Classification_5classes/image_NirRGB/{GF2}.tif",
         "nir": f"Large-scale Classification_5classes/image_NirRGB/{GF2}.tif",
         "labels": f"Large-scale Classification_5classes/label_5classes/{GF2}_label.tif"},
        (), "upseg/gid5",
    ),
    "gid-15, challenge": Form(
        published.make_gid15_challenge, "GID-15 (layout 'gid-15'",
        {"train": 12, "val": 2, "test": 3, "unlabelled": 3}, list(range(1, 16)), [0], BILLIONS,
        {"id": GF2, "split": "train", "rgb": f"GID/img_dir/train/{GF2}.tif",
         "nir": f"GID/img_dir/train/{GF2}.tif",
         "labels": f"GID/ann_dir/train/{GF2}_15label.png"},
        (), "upseg/gid15",
    ),
    "five-billion-pixels, as published": Form(
        lambda root: published.make_gid_on_billions(root, 24),
        "Five-Billion-Pixels (layout 'five-billion-pixels'",
        {"test": 30, "train": 107, "val": 13}, list(range(1, 25)), [0], BILLIONS,
        {"id": GF2, "split": "test", "rgb": f"Image__8bit_NirRGB/{GF2}.tiff",
         "nir": f"Image__8bit_NirRGB/{GF2}.tiff",
         "labels": f"Annotation__index/{GF2}_24label.png"},
        (), "upseg/gid15",
    ),
    "vaihingen, as published": Form(
        published.make_vaihingen, "ISPRS Vaihingen (layout 'vaihingen'",
        {"train": 13, "test": 17, "val": 3}, COLORS, ISPRS_VOID,
        {"irrg": (IRRG, None), "dsm": (["height"], None)},
        {"id": "1", "split": "train",
         "irrg": "ISPRS_semantic_labeling_Vaihingen/top/top_mosaic_09cm_area1.tif",
         "dsm": "ISPRS_semantic_labeling_Vaihingen/dsm/dsm_09cm_matching_area1.tif",
         "labels": "ISPRS_semantic_labeling_Vaihingen/gts_for_participants/"
                   "top_mosaic_09cm_area1.tif",
         "labels_eroded": "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE/"
                          "top_mosaic_09cm_area1_noBoundary.tif"},
        (), "compare/vaihingen",
    ),
    "potsdam, as published": Form(
        published.make_potsdam, "ISPRS Potsdam (layout 'potsdam'",
        {"train": 18, "val": 5, "test": 14}, COLORS, ISPRS_VOID, POTSDAM_BOTH,
        {**POTSDAM_SCENE, "labels": "5_Labels_for_participants/top_potsdam_2_10_label.tif",
         "labels_eroded": "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"},
        AS_MFNET, "mfnet/potsdam_sound",
    ),
    "potsdam, GeoSeg's folders": Form(
        published.make_geoseg_potsdam, "ISPRS Potsdam (layout 'potsdam'",
        {"train": 18, "val": 5, "test": 14}, COLORS, ISPRS_VOID, {"rgb": (RGB, None)},
        {"id": "2_13", "split": "test", "rgb": "test_images/top_potsdam_2_13_RGB.tif",
         "labels": "test_masks/top_potsdam_2_13_label.tif",
         "labels_eroded": "test_masks_eroded/top_potsdam_2_13_label_noBoundary.tif"},
        ("-O", "modalities=rgb"), "compare/potsdam", {"data.modalities": ["rgb"]},
    ),
    "mmhunan, as published": Form(
        published.make_hunan, "MMHunan (layout 'mmhunan'",
        {"train": 4, "val": 4, "test": 4}, [1, 2, 3, 5, 6, 8, 9], [0, 4, 7, 10, 11, 255],
        {"rgb": (["B04", "B03", "B02"], [4, 3, 2]), "dem": (["height"], [1])},
        {"id": "639", "split": "test", "rgb": "Hunan_Dataset/test/s2/s2_639.tif",
         "dem": "Hunan_Dataset/test/topo/topo_639.tif",
         "labels": "Hunan_Dataset/test/lc/lc_639.tif"},
        ("-O", "classes=mfnet", "-O", "modalities=rgb,dem", *ALLOW), "mfnet/mmhunan_published",
    ),
    "potsdam, flat labels": Form(
        published.make_potsdam_flat, "ISPRS Potsdam (layout 'potsdam'",
        {"train": 18, "val": 5, "test": 14}, COLORS, ISPRS_VOID, POTSDAM_BOTH,
        {**POTSDAM_SCENE, "labels": "top_potsdam_2_10_label.tif"},
        AS_MFNET, "mfnet/potsdam_sound", FULL,
    ),
    "potsdam, eroded labels": Form(
        lambda root: published.make_potsdam_without(
            root, "5_Labels_all", "5_Labels_for_participants"
        ),
        "ISPRS Potsdam (layout 'potsdam'",
        {"train": 18, "val": 5, "test": 14}, COLORS, ISPRS_VOID, POTSDAM_BOTH,
        {**POTSDAM_SCENE, "labels": "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif",
         "labels_eroded": "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"},
        AS_MFNET, "mfnet/potsdam_sound",
    ),
    "potsdam, all labels with an overlay": Form(
        lambda root: published.make_potsdam_without(root, "5_Labels_for_participants"),
        "ISPRS Potsdam (layout 'potsdam'",
        {"train": 17, "val": 5, "test": 14}, COLORS, ISPRS_VOID, POTSDAM_BOTH,
        {**POTSDAM_SCENE, "labels": "5_Labels_all/top_potsdam_2_10_label.tif",
         "labels_eroded": "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"},
        (*AS_MFNET, "-O", "without=4_12"), "mfnet/potsdam_sound",
    ),
    "vaihingen, eroded labels": Form(
        published.make_vaihingen_eroded, "ISPRS Vaihingen (layout 'vaihingen'",
        {"train": 13, "test": 17, "val": 3}, COLORS, ISPRS_VOID,
        {"irrg": (IRRG, None), "dsm": (["height"], None)},
        {"id": "5", "split": "val",
         "irrg": "ISPRS_semantic_labeling_Vaihingen/top/top_mosaic_09cm_area5.tif",
         "dsm": "ISPRS_semantic_labeling_Vaihingen/dsm/dsm_09cm_matching_area5.tif",
         "labels": "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE/"
                   "top_mosaic_09cm_area5_noBoundary.tif",
         "labels_eroded": "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE/"
                          "top_mosaic_09cm_area5_noBoundary.tif"},
        (), "compare/vaihingen",
    ),
    "vaihingen, GeoSeg's folders": Form(
        published.make_geoseg_vaihingen, "ISPRS Vaihingen (layout 'vaihingen'",
        {"train": 13, "test": 17, "val": 3}, COLORS, ISPRS_VOID, {"irrg": (IRRG, None)},
        {"id": "2", "split": "test", "irrg": "test_images/top_mosaic_09cm_area2.tif",
         "labels": "test_masks/top_mosaic_09cm_area2.tif",
         "labels_eroded": "test_masks_eroded/top_mosaic_09cm_area2_noBoundary.tif"},
        ("-O", "modalities=irrg"), "compare/vaihingen", FULL | IRRG_ALONE,
    ),
    "vaihingen, GeoSeg's pieces": Form(
        lambda root: published.make_geoseg_pieces(root, "top_mosaic_09cm_area", VAIHINGEN),
        "ISPRS Vaihingen, pieces of geoseg (layout 'vaihingen'",
        {"train": 26, "test": 34, "val": 6}, [0, 1, 2, 3, 4, 5], [6, 255], {"irrg": (IRRG, None)},
        {"id": "17_0_1", "split": "val",
         "irrg": "train/images_1024/top_mosaic_09cm_area17_0_1.tif",
         "labels": "train/masks_1024/top_mosaic_09cm_area17_0_1.png"},
        (), "compare/vaihingen", FULL | IRRG_ALONE,
    ),
    "potsdam, GeoSeg's pieces by folder": Form(
        lambda root: published.make_geoseg_pieces(root, "top_potsdam_", POTSDAM),
        "ISPRS Potsdam, pieces of geoseg (layout 'potsdam'",
        {"train": 48, "test": 28}, [0, 1, 2, 3, 4, 5], [6, 255], {"rgb": (RGB, None)},
        {"id": "7_10_0_0", "split": "train",
         "rgb": "train/images_1024/top_potsdam_7_10_0_0.tif",
         "labels": "train/masks_1024/top_potsdam_7_10_0_0.png"},
        ("-O", "split=folders"), "compare/potsdam",
        FULL | {"data.modalities": ["rgb"], "training.validation_split": "test"},
    ),
    "vaihingen, mmsegmentation": Form(
        lambda root: published.make_mmseg_pieces(root, "area", MMSEG["vaihingen"]),
        "ISPRS Vaihingen, pieces of mmsegmentation (layout 'vaihingen'",
        {"train": 26, "test": 34, "val": 6}, [1, 2, 3, 4, 5, 6], [0, 255], {"irrg": (IRRG, None)},
        {"id": "30_0_0_512_512", "split": "val", "irrg": "img_dir/train/area30_0_0_512_512.png",
         "labels": "ann_dir/train/area30_0_0_512_512.png",
         "labels_eroded": "ann_dir/train/area30_0_0_512_512.png"},
        (), "compare/vaihingen", IRRG_ALONE, slow=False,
    ),
    "potsdam, mmsegmentation": Form(
        lambda root: published.make_mmseg_pieces(root, "", MMSEG["potsdam"]),
        "ISPRS Potsdam, pieces of mmsegmentation (layout 'potsdam'",
        {"train": 36, "val": 10, "test": 28}, [1, 2, 3, 4, 5, 6], [0, 255], {"rgb": (RGB, None)},
        {"id": "2_13_0_0_512_512", "split": "test", "rgb": "img_dir/val/2_13_0_0_512_512.png",
         "labels": "ann_dir/val/2_13_0_0_512_512.png",
         "labels_eroded": "ann_dir/val/2_13_0_0_512_512.png"},
        (), "compare/potsdam", {"data.modalities": ["rgb"]},
    ),
    "whu, chips of codes 0 to 7": Form(
        lambda root: published.make_whu_chips(root, published.whu_ids()[:12]),
        "WHU-OPT-SAR in chips (layout 'whu-opt-sar'",
        {"train": 9, "test": 24, "val": 3}, [1, 2, 3, 4, 5, 6, 7], [0],
        {"optical": (["blue", "green", "red", "nir"], None), "sar": (["sar"], None)},
        {"id": "NH49E001014_1", "split": "test", "optical": "val/opt/NH49E001014_1.tif",
         "sar": "val/sar/NH49E001014_1.tif", "labels": "val/lbl/NH49E001014_1.tif"},
        ALLOW, "upseg/whu_opt_sar", slow=False,
    ),
    "whu, chips by folder, codes as published": Form(
        lambda root: published.make_whu_chips(root, published.whu_ids()[:12], divisor=1),
        "WHU-OPT-SAR in chips (layout 'whu-opt-sar'",
        {"val": 12, "test": 12, "train": 12}, [10, 20, 30, 40, 50, 60, 70], [0],
        {"optical": (["blue", "green", "red", "nir"], None), "sar": (["sar"], None)},
        {"id": "NH49E001014_1", "split": "val", "optical": "val/opt/NH49E001014_1.tif",
         "sar": "val/sar/NH49E001014_1.tif", "labels": "val/lbl/NH49E001014_1.tif"},
        (*ALLOW, "-O", "split=folders"), "upseg/whu_opt_sar",
    ),
    "mmhunan, MFNet's tree": Form(
        published.make_hunan_mfnet, "MMHunan as MFNet prepared it (layout 'mmhunan'",
        {"train": 4, "val": 4, "test": 4}, list(HUNAN.values()), [-1, 255],
        {"rgb": (["B04", "B03", "B02"], None), "dem": (["height"], None)},
        {"id": "639", "split": "test", "rgb": "Hunan/images_png/639.png",
         "dem": "Hunan/dsm_pngs/639.png", "labels": "Hunan/masks_png/639.tif"},
        ("-O", "split=mfnet-val", "-O", "classes=mfnet", "-O", "modalities=rgb,dem", *ALLOW),
        "mfnet/mmhunan_published", slow=False,
    ),
    "mmhunan, lc/ID.tif": Form(
        published.make_hunan_renamed, "MMHunan (layout 'mmhunan'",
        {"train": 4, "val": 4, "test": 4}, [1, 2, 3, 5, 6, 8, 9], [0, 4, 7, 10, 11, 255],
        {"rgb": (["B04", "B03", "B02"], [4, 3, 2]), "dem": (["height"], [1])},
        {"id": "639", "split": "test", "rgb": "Hunan_Dataset/test/s2/s2_639.tif",
         "dem": "Hunan_Dataset/test/topo/topo_639.tif", "labels": "Hunan_Dataset/test/lc/639.tif"},
        ("-O", "classes=mfnet", "-O", "modalities=rgb,dem", *ALLOW), "mfnet/mmhunan_published",
    ),
    "mmhunan, lc/ID.tif remapped": Form(
        lambda root: published.make_hunan_renamed(root, remapped=True), "MMHunan (layout 'mmhunan'",
        {"train": 4, "val": 4, "test": 4}, list(HUNAN.values()), [-1, 255],
        {"rgb": (["B04", "B03", "B02"], [4, 3, 2]), "dem": (["height"], [1])},
        {"id": "639", "split": "test", "rgb": "Hunan_Dataset/test/s2/s2_639.tif",
         "dem": "Hunan_Dataset/test/topo/topo_639.tif", "labels": "Hunan_Dataset/test/lc/639.tif"},
        ("-O", "modalities=rgb,dem", *ALLOW), "mfnet/mmhunan_published",
    ),
    "gid-5 on Five-Billion-Pixels": Form(
        lambda root: published.make_gid_on_billions(root, 5, labels="GID5/Annotation__index"),
        "GID-5 (layout 'gid-5'", {"test": 30, "train": 107, "val": 13}, [1, 2, 3, 4, 5], [0],
        BILLIONS,
        {"id": GF2, "split": "test", "rgb": f"Image__8bit_NirRGB/{GF2}.tiff",
         "nir": f"Image__8bit_NirRGB/{GF2}.tiff",
         "labels": f"GID5/Annotation__index/{GF2}_5label.png"},
        (), "upseg/gid5",
    ),
    "gid-5, the fifteen scenes": Form(
        lambda root: published.make_gid_on_billions(
            root, 5, ids=read_facts("gid-5").more["fifteen"]
        ),
        "GID-5 (layout 'gid-5'", {"train": 6, "test": 6, "val": 3}, [1, 2, 3, 4, 5], [0],
        BILLIONS,
        {"id": GF2, "split": "test", "rgb": f"Image__8bit_NirRGB/{GF2}.tiff",
         "nir": f"Image__8bit_NirRGB/{GF2}.tiff",
         "labels": f"Annotation__index/{GF2}_5label.png"},
        ("-O", "split=fifteen"), "upseg/gid5",
    ),
    "gid-15 on Five-Billion-Pixels": Form(
        lambda root: published.make_gid_on_billions(root, 15), "GID-15 (layout 'gid-15'",
        {"test": 30, "train": 107, "val": 13}, list(range(1, 16)), [0], BILLIONS,
        {"id": GF2, "split": "test", "rgb": f"Image__8bit_NirRGB/{GF2}.tiff",
         "nir": f"Image__8bit_NirRGB/{GF2}.tiff",
         "labels": f"Annotation__index/{GF2}_15label.png"},
        (), "upseg/gid15",
    ),
    "five-billion-pixels, RGBNir of 16 bits": Form(
        lambda root: published.make_gid_on_billions(
            root, 24, images="Image_16bit_RGBNir", labels="Annotation_Index",
            top="TrainSet_For_Baseline",
        ),
        "Five-Billion-Pixels (layout 'five-billion-pixels'",
        {"test": 30, "train": 107, "val": 13}, list(range(1, 25)), [0],
        {"rgb": (RGB, [1, 2, 3]), "nir": (["nir"], [4])},
        {"id": GF2, "split": "test",
         "rgb": f"TrainSet_For_Baseline/Image_16bit_RGBNir/{GF2}.tiff",
         "nir": f"TrainSet_For_Baseline/Image_16bit_RGBNir/{GF2}.tiff",
         "labels": f"TrainSet_For_Baseline/Annotation_Index/{GF2}_24label.png"},
        (), "upseg/gid15",
    ),
    "LoveDA": Form(
        published.make_loveda, "no published data set; folders of rasters (layout 'folder')",
        {"train": 4, "val": 4}, list(range(8)), [],
        {"images_png": (["band_1", "band_2", "band_3"], None)},
        {"id": "val_Urban_1", "split": "val", "images_png": "Val/Urban/images_png/1.png",
         "labels": "Val/Urban/masks_png/1.png"},
        (), "compare/whu_opt_sar",
        {"data.modalities": ["images_png"], "evaluation.split": "val"}, slow=False,
    ),
    **{
        name: Form(
            lambda root, tree=tree, lists=lists: published.make_tree(root, *tree, lists=lists),
            "no published data set; folders of rasters (layout 'folder')",
            {"train": 1, "val": 1, "test": 1}, [0, 1, 2, 3, 5], [],
            {image: (["band_1", "band_2", "band_3"], None), height: (["band_1"], None)},
            {"id": "3", "split": "test",
             **{key: path.replace("SPLIT", "test").replace("NAME", "3")
                for key, path in zip((image, height, "labels"), tree, strict=True)}},
            (), "compare/whu_opt_sar", {"data.modalities": [image, height]},
        )
        for name, image, height, tree, lists in (
            ("RGB, NDSM, SEM", "rgb", "ndsm",
             ("SPLIT/RGB/NAME.tif", "SPLIT/NDSM/NAME.tif", "SPLIT/SEM/NAME.tif"), False),
            ("splits below modalities", "img_dir", "dem_dir",
             ("img_dir/SPLIT/NAME.png", "dem_dir/SPLIT/NAME.tif", "ann_dir/SPLIT/NAME.png"), False),
            ("names alone, and lists", "image", "dem",
             ("Image_NAME.tif", "Dem_NAME.tif", "Label_NAME.tif"), True),
            ("lists", "images", "dsm",
             ("images/NAME.tif", "dsm/NAME.tif", "labels/NAME.tif"), True),
        )
    },
}  # fmt: skip


def describe(form: Form, folder: Path, command_line: CommandLine) -> tuple[Path, str]:
    """The manifest, and what the command said."""
    out = folder / "dataset.yaml"
    root = form.make(folder / "copy")
    code, said, message = command_line("data", "describe", root, "-o", out, *form.words)
    assert code == 0, message
    return out, said


@pytest.mark.parametrize("name", FORMS)
def test_manifest(name: str, tmp_path: Path, command_line: CommandLine) -> None:
    form = FORMS[name]
    out, said = describe(form, tmp_path, command_line)
    assert said.startswith(f"recognised: {form.seen}")
    values = yaml.safe_load(out.read_text())
    assert values["root"] == "copy"
    assert [item["code"] for item in values["classes"]] == form.codes
    assert values.get("void", []) == form.void
    modalities = {n: (m["bands"], m.get("read_bands")) for n, m in values["modalities"].items()}
    assert modalities == form.modalities
    by_id = {scene["id"]: scene for scene in values["scenes"]}
    assert by_id[form.scene["id"]] == form.scene
    manifest = load_manifest(out)
    assert manifest.splits == form.splits
    seen: set[int] = set()
    for scene in manifest.scenes():
        assert not scene.missing
        if scene.split != "unlabelled":
            seen |= set(np.unique(scene.read_labels(scene.full_window)).tolist())
    assert seen - {255} == set(range(manifest.scheme.num_classes))


def test_the_page_gives_the_commands_that_are_tested() -> None:
    """But for what tiny copies need; a form whose command has no option is that of the page."""
    page = (CONFIGS.parent / "docs/howto/benchmarks.md").read_text()
    page = page[page.index("## Which form") : page.index("### Then train")]
    given = {
        tuple(word for word in re.findall(r"-O (\S+)", line))
        for line in page.splitlines()
        if line.startswith("terrafuse data describe ROOT -o ")
    }
    tested = {
        tuple(word for word in form.words if word != "-O" and word != "incomplete=allow")
        for form in FORMS.values()
    }
    assert given <= tested
    assert tested - given == {("modalities=rgb",), ("split=authors",)}


def run_cases() -> Iterator[Any]:
    """Every form; those that take the same way as others are slow."""
    for name, form in FORMS.items():
        yield pytest.param(name, id=name, marks=[pytest.mark.slow] if form.slow else [])


@pytest.mark.parametrize("name", list(run_cases()))
def test_two_steps_and_a_score(name: str, tmp_path: Path, command_line: CommandLine) -> None:
    form = FORMS[name]
    out, _ = describe(form, tmp_path, command_line)
    settings = {
        "data.manifest": out, "data.crop_size": 64, "data.batch_size": 2, "data.workers": 0,
        "training.steps": 2, "training.warmup_steps": 0, "training.head_first_steps": 0,
        "training.validate_every": 2, "training.validation_overlap": 0,
        "training.accelerator": "cpu", "training.precision": "32-true",
        "prediction.crop_size": 64, "prediction.overlap": 0,
        **{f"method.{k}": "null" if v is None else v
           for k, v in SMALL[form.run.partition("/")[0]].items()},
        **form.settings,
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    run = tmp_path / "run"
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).chdir(tmp_path)
        path = CONFIGS / f"{form.run}.yaml"
        code, _, message = command_line("train", path, "--out", run, *words)
        assert code == 0, message
        split = settings.get("evaluation.split", "test")
        code, _, message = command_line("evaluate", run, "--split", split)
    assert code == 0, message
    scores = json.loads((run / "metrics.json").read_text())
    assert (scores["split"], scores["scenes"]) == (split, form.splits[split])
    assert scores["pixels"] > 0
    assert scores["classes"] == list(load_manifest(out).scheme.names)
