"""Tiny copies of published data sets: their folders, names, data types, encodings and defects."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from terrafuse.layouts.facts import read_facts

HEIGHT, WIDTH = 10, 12
ISPRS = ("#ffffff", "#0000ff", "#00ffff", "#00ff00", "#ffff00", "#ff0000")
GID5 = ("#ff0000", "#00ff00", "#00ffff", "#ffff00", "#0000ff")


def numbers(bands: int, dtype: str = "uint8", seed: int = 0, shape=(HEIGHT, WIDTH)) -> np.ndarray:
    """Noise whose band k lies between 40 k + 1 and 40 k + 30."""
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 31, (bands, *shape)) + 40 * np.arange(bands)[:, None, None]).astype(
        dtype
    )


def colored(classes: np.ndarray, colors: Iterable[str], void: str = "#000000") -> np.ndarray:
    """Class indices (H, W) as colours (3, H, W); 255 = void."""
    table = np.zeros((256, 3), np.uint8)
    for index, color in enumerate(colors):
        table[index] = list(bytes.fromhex(color[1:]))
    table[255] = list(bytes.fromhex(void[1:]))
    return np.moveaxis(table[classes], -1, 0)


def save(path: Path, pixels: np.ndarray, **profile) -> Path:
    """A raster without CRS; the format is that of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drivers = {".png": "PNG", ".jpg": "JPEG"}
    count, height, width = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver=drivers.get(path.suffix.lower(), "GTiff"), count=count,
            height=height, width=width, dtype=pixels.dtype, **profile,
        ) as dataset:  # fmt: skip
            dataset.write(pixels)
    return path


def world_file(path: Path, pixel_m: float) -> None:
    """A world file: the place of a raster without its CRS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = (pixel_m, 0.0, 0.0, -pixel_m, 366_000.0, 5_810_000.0)
    path.write_text("\n".join(map(str, values)) + "\n")


def classes_for(id: str, count: int) -> np.ndarray:
    """Some class indices (H, W), 255 in the first row."""
    rng = np.random.default_rng(sum(map(ord, id)))
    classes = rng.integers(0, count, (HEIGHT, WIDTH)).astype(np.uint8)
    classes[0] = 255
    return classes


def whu_ids() -> list[str]:
    """Return the ids of all sheets."""
    return sorted(read_facts("whu-opt-sar").split("official"))


def make_whu(
    root: Path,
    ids: Iterable[str] | None = None,
    *,
    optical: str = "optical",
    divisor: int = 1,
    labels: Mapping[str, np.ndarray] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """WHU-OPT-SAR: B, G, R, NIR and SAR in 8 bits, labels 0, 10 … 70."""
    for id in whu_ids() if ids is None else ids:
        classes = (labels or {}).get(id, classes_for(id, 7))
        codes = np.where(classes == 255, 0, (classes + 1) * 10) // divisor
        save(root / optical / f"{id}.tif", (images or {}).get(id, numbers(4, shape=classes.shape)))
        save(root / "sar" / f"{id}.tif", numbers(1, seed=1, shape=classes.shape))
        save(root / "lbl" / f"{id}.tif", codes[None].astype(np.uint8))
    return root


def gid_ids() -> list[str]:
    """Return 150 ids, 30 of them the published test scenes."""
    test = read_facts("gid-5").more["test"]
    return [*test, *(f"GF2_PMS1__L1A000{n:07}-MSS1" for n in range(7_000_000, 7_000_120))]


def make_gid5(
    root: Path,
    ids: Iterable[str] | None = None,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """GID-5: NIR, R, G, B in 8 bits, tagged CMYK; labels in colours."""
    top = root / "Large-scale Classification_5classes"
    for id in gid_ids() if ids is None else ids:
        pixels = (images or {}).get(id, numbers(4))
        save(top / f"image_NirRGB/{id}.tif", pixels, photometric="cmyk")
        save(top / f"image_RGB/{id}.tif", pixels[1:])
        classes = (labels or {}).get(id, classes_for(id, 5))
        save(top / f"label_5classes/{id}_label.tif", colored(classes, GID5), photometric="rgb")
    return root


def make_billions(root: Path, ids: Iterable[str] | None = None) -> Path:
    """Five-Billion-Pixels: both depths with opposite band orders, labels as indices and colours."""
    colors = [item["color"] for item in read_facts("five-billion-pixels").classes]
    for number, id in enumerate(gid_ids() if ids is None else ids):
        classes = classes_for(id, 24)
        codes = np.where(classes == 255, 0, classes + 1).astype(np.uint8)
        suffix = "tiff" if number % 2 else "tif"  # copies mix them
        save(root / f"Image_16bit_BGRNir/{id}.tiff", numbers(4, "uint16")[::-1] * 4)
        save(root / f"Image__8bit_NirRGB/{id}.{suffix}", numbers(4), photometric="cmyk")
        save(root / f"Annotation__index/{id}_24label.png", codes[None])
        save(root / f"Annotation__color/{id}_24label.tif", colored(classes, colors))
        rpb = root / f"Coordinate_files/{id}.rpb"
        rpb.parent.mkdir(exist_ok=True)
        rpb.write_text('satId = "GF2";')
    return root


def make_gid15_challenge(root: Path, *, bands: int = 4) -> Path:
    """GID-15 as in the contest: indices, no labels of the test scenes."""
    for number, id in enumerate(gid_ids()[:20]):
        split = "train" if number < 14 else "val" if number < 17 else "test"
        save(root / f"GID/img_dir/{split}/{id}.tif", numbers(bands))
        if split != "test":
            codes = (classes_for(id, 15) + 1).astype(np.uint8)  # 255 → 0
            save(root / f"GID/ann_dir/{split}/{id}_15label.png", codes[None])
    return root


def make_gid15_fine(root: Path) -> Path:
    """GID-15, the fine set: ten scenes, labels in colours."""
    colors = [item["color"] for item in read_facts("gid-15").classes]
    top = root / "Fine Land-cover Classification_15classes"
    for id in gid_ids()[30:40]:
        save(top / f"image_NirRGB/{id}.tif", numbers(4))
        save(top / f"label_15classes/{id}_15label.tif", colored(classes_for(id, 15), colors))
    return root


def make_vaihingen(
    root: Path,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    eroded: Mapping[str, np.ndarray] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    ids: Iterable[str] | None = None,
) -> Path:
    """ISPRS Vaihingen: all archives unpacked into folders of their own names."""
    name = "ISPRS_semantic_labeling_Vaihingen"
    official = read_facts("vaihingen").split("official")
    for id in official if ids is None else ids:
        file = f"top_mosaic_09cm_area{id}"
        shape = (HEIGHT + int(id) % 3, WIDTH)
        classes = (labels or {}).get(id)
        if classes is None:
            classes = np.resize(classes_for(id, 6), shape)
            classes[classes == 255] = 0
        edges = (eroded or {}).get(id, np.where(np.arange(classes.shape[1]) % 5, classes, 255))
        truth = colored(classes, ISPRS)
        pixels = (images or {}).get(id, numbers(3, shape=classes.shape))
        heights = 250 + numbers(1, "float32", shape=classes.shape)
        save(root / name / f"top/{file}.tif", pixels)
        save(root / name / f"dsm/dsm_09cm_matching_area{id}.tif", heights)
        save(root / f"{name}_ground_truth_COMPLETE/{file}.tif", truth)
        save(
            root / f"{name}_ground_truth_eroded_COMPLETE/{file}_noBoundary.tif",
            colored(edges.astype(np.uint8), ISPRS),
        )
        if official.get(id) == "train":
            save(root / name / f"gts_for_participants/{file}.tif", truth)
        world_file(root / f"Vaihingen_dsm_tiles_geoinfo/dsm_09cm_matching_area{id}.tfw", 0.09)
    return root


def make_potsdam(
    root: Path,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    eroded: Mapping[str, np.ndarray] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    ids: Iterable[str] | None = None,
) -> Path:
    """ISPRS Potsdam, with a surface model one column short and a label that is a photograph."""
    official = read_facts("potsdam").split("official")
    for id in official if ids is None else ids:
        classes = (labels or {}).get(id)
        if classes is None:
            classes = np.where(classes_for(id, 6) == 255, 0, classes_for(id, 6))
        edges = (eroded or {}).get(id, np.where(np.arange(classes.shape[1]) % 5, classes, 255))
        truth = colored(classes.astype(np.uint8), ISPRS)
        pixels = (images or {}).get(id, numbers(4, shape=classes.shape))
        name = f"top_potsdam_{id}"
        save(root / f"4_Ortho_RGBIR/{name}_RGBIR.tif", pixels)
        world_file(root / f"4_Ortho_RGBIR/{name}_RGBIR.tfw", 0.05)
        save(root / f"2_Ortho_RGB/{name}_RGB.tif", pixels[:3])
        save(root / f"3_Ortho_IRRG/{name}_IRRG.tif", pixels[[3, 0, 1]])
        padded = "_".join(part.zfill(2) for part in id.split("_"))
        short = classes.shape[1] - (id == "3_13")
        heights = numbers(1, "float32", shape=(classes.shape[0], short)) + 30
        save(root / f"1_DSM/dsm_potsdam_{padded}.tif", heights)
        save(
            root / f"1_DSM_normalisation/dsm_potsdam_{padded}_normalized_lastools.jpg",
            heights.astype(np.uint8),
        )
        everywhere = numbers(3, shape=classes.shape) if id == "4_12" else truth
        save(root / f"5_Labels_all/{name}_label.tif", everywhere)
        black = colored(edges.astype(np.uint8), ISPRS)
        save(root / f"5_Labels_all_noBoundary/{name}_label_noBoundary.tif", black)
        if official.get(id) == "train":
            save(root / f"5_Labels_for_participants/{name}_label.tif", truth)
    return root


def make_hunan(
    root: Path,
    *,
    per_split: int = 4,
    codes: Mapping[str, np.ndarray] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """MMHunan: raw codes 0 to 11 and 255."""
    facts = read_facts("mmhunan").splits["mfnet"]
    for number, split in enumerate(("train", "val", "test")):
        listed = facts["test"] if split == "test" else facts["train"][number * 20 :]
        for id in listed[:per_split]:
            folder = root / "Hunan_Dataset" / split
            raw = np.resize(np.array([*range(12), 255], np.uint8), (HEIGHT, WIDTH))
            image = (images or {}).get(id, numbers(13, "float32"))
            save(folder / f"s2/s2_{id}.tif", image)
            save(folder / f"s1/s1_{id}.tif", -numbers(2, "float32"))
            save(folder / f"topo/topo_{id}.tif", numbers(2, "float32"))
            if split == "train":
                save(folder / f"tri/tri_{id}.tif", numbers(1, "float32"))
            save(folder / f"lc/lc_{id}.tif", (codes or {}).get(id, raw)[None])
    return root


def make_floods(root: Path, *, lists: bool = True) -> Path:
    """Sen1Floods11: dB and reflectance × 10,000, labels −1, 0, 1."""
    top = root / "v1.1"
    names = ("Spain_1", "USA_2", "Ghana_3", "Bolivia_4", "Sri-Lanka_5")
    for id in names:
        codes = classes_for(id, 2).astype(np.int16)
        codes[codes == 255] = -1
        folder = top / "data/flood_events/HandLabeled"
        save(folder / f"S1Hand/{id}_S1Hand.tif", -numbers(2, "float32"), nodata=float("nan"))
        save(folder / f"S2Hand/{id}_S2Hand.tif", numbers(13, "int16"), nodata=0)
        save(folder / f"LabelHand/{id}_LabelHand.tif", codes[None])
        save(folder / f"JRCWaterHand/{id}_JRCWaterHand.tif", np.abs(codes[None]))
    split = {"train": names[:2], "valid": names[2:3], "test": names[4:], "bolivia": names[3:4]}
    for name, ids in split.items() if lists else ():
        path = top / f"splits/flood_handlabeled/flood_{name}_data.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{id}_S1Hand.tif,{id}_LabelHand.tif\n" for id in ids))
    return root


def make_ombria(root: Path) -> Path:
    """OMBRIA as published: names with sensor and time; Sentinel-2 of fewer places."""
    for number in (1, 2, 20, 50, 60, 97, 100, 150):
        split = "test" if number in (2, 100) else "train"
        mask = np.where(classes_for(str(number), 2) == 1, 255, 0).astype(np.uint8)[None]
        for sensor, bands in (("S1", 1), ("S2", 3)):
            if sensor == "S2" and number == 60:
                continue
            top = root / f"Ombria{sensor}" / split
            for seed, time in enumerate(("before", "after")):
                pixels = numbers(bands, seed=seed) + 100 * seed
                name = f"{sensor}_{time}_{number:04}.png"
                save(top / time.upper() / name, pixels.astype(np.uint8))
            save(top / f"MASK/{sensor}_mask_{number:04}.png", mask)
    return root


def make_forests(root: Path, second: str = "structure") -> Path:
    """Pictures of trees with a second picture each, and lists of names of two forms."""
    names = [f"plot_{n:02}" for n in range(12)]
    for name in names:
        save(root / f"RGB/{name}.jpg", numbers(3))
        save(root / f"{second}/{name}.png", numbers(1))
        save(root / f"labels/{name}.png", classes_for(name, 3)[None])
    (root / "train.txt").write_text("".join(f"RGB/{n}.jpg labels/{n}.png\n" for n in names[:9]))
    (root / "test.txt").write_text("".join(f"{n}.jpg\n" for n in names[9:]) + "\n")
    return root


def make_dfc2020(root: Path, *, places: bool = False) -> Path:
    """DFC2020: labels 1 to 10 without 3 and 8, in one of its two editions."""
    codes = np.array([1, 2, 4, 5, 6, 7, 9, 10])
    parts = [("validation", "validation", "0", 40), ("test", "0", "0", 3)]
    if places:
        parts = [("autumn", name, name, 2) for name in ("Mumbai", "CapeTown")]
        parts.append(("winter", "KippaRing", "KippaRing", 2))
    for season, folder, place, count in parts:
        for number in range(count):
            for kind, pixels in (
                ("s1", -numbers(2, "float32")),
                ("s2", numbers(13, "uint16")),
                ("dfc", np.append(codes, 0)[np.minimum(classes_for(str(number), 8), 8)][None]),
                ("lc", numbers(4)),
            ):
                name = f"ROIs0000_{season}_{kind}_{place}_p{number}.tif"
                top = root / "DFC_Public_Dataset" / f"ROIs0000_{season}"
                save(top / f"{kind}_{folder}/{name}", pixels.astype(pixels.dtype.newbyteorder("=")))
    return root


# The forms in which these sets circulate, as public readers expect them.


def move(root: Path, pattern: str, to: str, *, remove: str = "", prefix: str = "") -> None:
    """Move files into a folder, without a suffix or with a prefix in their names."""
    for path in sorted(root.glob(pattern)):
        name = prefix + path.name.replace(remove, "") if remove else prefix + path.name
        target = root / to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def make_potsdam_flat(root: Path, ids: Iterable[str] | None = None) -> Path:
    """Labels flat in the root beside 4_Ortho_RGBIR and the models, as torchgeo has them."""
    make_potsdam(root, ids=ids)
    move(root, "5_Labels_for_participants/*.tif", ".")
    for id in read_facts("potsdam").splits["official"]["test"]:
        move(root, f"5_Labels_all/top_potsdam_{id}_label.tif", ".")
    for folder in root.glob("5_*"):
        shutil.rmtree(folder)
    return root


def make_potsdam_without(root: Path, *folders: str, ids: Iterable[str] | None = None) -> Path:
    """Potsdam with some of the archives of labels not fetched."""
    make_potsdam(root, ids=ids)
    for folder in folders:
        shutil.rmtree(root / folder, ignore_errors=True)
    return root


def make_vaihingen_eroded(root: Path, ids: Iterable[str] | None = None) -> Path:
    """Vaihingen with the archive of eroded labels only."""
    make_vaihingen(root, ids=ids)
    name = "ISPRS_semantic_labeling_Vaihingen"
    shutil.rmtree(root / f"{name}_ground_truth_COMPLETE")
    shutil.rmtree(root / name / "gts_for_participants")
    return root


def make_geoseg_vaihingen(root: Path) -> Path:
    """The tree that GeoSeg asks for: images and labels of equal names in folders by split."""
    make_vaihingen(root / "all")
    official = read_facts("vaihingen").split("official")
    top = "all/ISPRS_semantic_labeling_Vaihingen"
    for id, split in official.items():
        name = f"top_mosaic_09cm_area{id}"
        move(root, f"{top}/top/{name}.tif", f"{split}_images")
        move(root, f"{top}_ground_truth_COMPLETE/{name}.tif", f"{split}_masks")
        if split == "test":
            move(root, f"{top}_ground_truth_eroded_COMPLETE/{name}_*.tif", "test_masks_eroded")
    shutil.rmtree(root / "all")
    return root


def make_geoseg_potsdam(root: Path) -> Path:
    """GeoSeg's tree of Potsdam: names tell images from labels."""
    make_potsdam(root / "all")
    for id, split in read_facts("potsdam").split("official").items():
        name = f"top_potsdam_{id}"
        where = "5_Labels_for_participants" if split == "train" else "5_Labels_all"
        move(root, f"all/2_Ortho_RGB/{name}_RGB.tif", f"{split}_images")
        move(root, f"all/{where}/{name}_label.tif", f"{split}_masks")
        move(root, f"all/5_Labels_all_noBoundary/{name}_*.tif", f"{split}_masks_eroded")
    shutil.rmtree(root / "all")
    return root


def make_geoseg_pieces(root: Path, prefix: str, split: Mapping[str, str]) -> Path:
    """Crops of GeoSeg: images_1024 and masks_1024 of indices, 6 = boundary."""
    for id, name in split.items():
        for piece in ("0_0", "0_1"):
            stem = f"{prefix}{id}_{piece}"
            codes = np.where(classes_for(stem, 6) == 255, 6, classes_for(stem, 6))
            save(root / name / f"images_1024/{stem}.tif", numbers(3))
            save(root / name / f"masks_1024/{stem}.png", codes[None].astype(np.uint8))
    return root


def make_mmseg_pieces(root: Path, prefix: str, split: Mapping[str, str]) -> Path:
    """Crops of mmsegmentation: img_dir and ann_dir of indices from 1 on, 0 = boundary."""
    for id, name in split.items():
        for corner in ("0_0_512_512", "0_512_512_1024"):
            stem = f"{prefix}{id}_{corner}"
            codes = (classes_for(stem, 6) + 1).astype(np.uint8)  # 255 → 0
            save(root / f"img_dir/{name}/{stem}.png", numbers(3))
            save(root / f"ann_dir/{name}/{stem}.png", codes[None])
    return root


def make_whu_chips(
    root: Path, sheets: Iterable[str], *, chips: int = 3, divisor: int = 10, folders: bool = True
) -> Path:
    """Chips of 256 pixels by SOLC: train, val, test with opt, sar, lbl; drawn chip by chip."""
    for sheet in sheets:
        for number in range(1, chips + 1):
            id = f"{sheet}_{number}"
            top = root / ("train", "val", "test")[number % 3] if folders else root / "crop"
            classes = classes_for(id, 7)
            codes = np.where(classes == 255, 0, (classes + 1) * 10) // divisor
            save(top / f"opt/{id}.tif", numbers(4), photometric="rgb", alpha="unspecified")
            save(top / f"sar/{id}.tif", numbers(1, seed=1))
            save(top / f"lbl/{id}.tif", codes[None].astype(np.uint8))
    return root


def make_hunan_mfnet(root: Path, *, per_split: int = 4) -> Path:
    """Files of MFNet's script: 8-bit pictures, and masks of int8 from -1 to 6."""
    facts = read_facts("mmhunan").splits["mfnet-val"]
    for part in ("train", "val", "test"):
        for id in facts[part][:per_split]:
            codes = np.resize(np.arange(-1, 7, dtype=np.int8), (HEIGHT, WIDTH))
            save(root / f"Hunan/images_png/{id}.png", numbers(3))
            save(root / f"Hunan/dsm_pngs/{id}.png", numbers(1))
            save(root / f"Hunan/masks_png/{id}.tif", codes[None])
    return root


def make_hunan_renamed(root: Path, *, per_split: int = 4, remapped: bool = False) -> Path:
    """MMHunan after the first, or after all lines of MFNet's script: lc/2604.tif."""
    make_hunan(root, per_split=per_split)
    for split in ("train", "val", "test"):
        move(root, f"Hunan_Dataset/{split}/lc/*.tif", f"Hunan_Dataset/{split}/lc", remove="lc_")
        for path in (root / f"Hunan_Dataset/{split}/lc").iterdir() if remapped else ():
            codes = np.resize(np.arange(-1, 7, dtype=np.int8), (HEIGHT, WIDTH))
            path.unlink()
            save(path, codes[None])
    return root


def make_gid_on_billions(
    root: Path, classes: int, *, images: str = "Image__8bit_NirRGB",
    labels: str = "Annotation__index", ids: Iterable[str] | None = None, top: str = "",
) -> Path:  # fmt: skip
    """Labels of 5, 15 or 24 classes as indices on images of Five-Billion-Pixels."""
    dtype = "uint16" if "16bit" in images else "uint8"
    # Band k of a file lies between 40 k + 1 and 40 k + 30.
    for id in gid_ids() if ids is None else ids:
        codes = (classes_for(id, classes) + 1).astype(np.uint8)  # 255 → 0
        tags = {"photometric": "cmyk"} if dtype == "uint8" else {}  # as published
        save(root / top / images / f"{id}.tiff", numbers(4, dtype), **tags)
        save(root / top / labels / f"{id}_{classes}label.png", codes[None])
    return root


def make_tree(root: Path, images: str, heights: str, labels: str, *, lists: bool = False) -> Path:
    """Three scenes in a tree with SPLIT and NAME in it; with lists, all splits in one folder."""
    for split, name in (("train", "1"), ("val", "2"), ("test", "3")):
        for path, pixels in (
            (images, numbers(3)), (heights, numbers(1)), (labels, classes_for(name, 4)[None] % 250),
        ):  # fmt: skip
            if path:
                save(root / path.replace("SPLIT", split).replace("NAME", name), pixels)
        if lists:
            (root / f"{split}.txt").write_text(f"{name}\n")
    return root


def make_loveda(root: Path) -> Path:
    """LoveDA: deeper splits, numbers that occur in all, converted masks, no labels to test."""
    for split in ("Train", "Val", "Test"):
        for place in ("Urban", "Rural"):
            for number in (0, 1):
                top = root / split / place
                save(top / f"images_png/{number}.png", numbers(3, seed=number))
                codes = classes_for(split + place + str(number), 7)[None]
                codes = np.where(codes == 255, 0, codes + 1).astype(np.uint8)
                if split != "Test":
                    save(top / f"masks_png/{number}.png", codes)
                    save(top / f"masks_png_convert/{number}.png", codes)
    return root
