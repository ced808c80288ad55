"""Tiny copies of published data sets: their folders, names, data types, encodings and defects."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from terrafuse.data.layouts.facts import read_facts

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
    """Where a raster lies, without saying in which CRS."""
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
    """All sheets."""
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
    """150 names, of which the published test scenes are thirty."""
    test = read_facts("gid-5").more["test"]
    return [*test, *(f"GF2_PMS1__L1A000{n:07}-MSS1" for n in range(7_000_000, 7_000_120))]


def make_gid5(
    root: Path,
    ids: Iterable[str] | None = None,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """GID-5: NIR, R, G, B in 8 bits, labels in colours."""
    top = root / "Large-scale Classification_5classes"
    for id in gid_ids() if ids is None else ids:
        pixels = (images or {}).get(id, numbers(4))
        save(top / f"image_NirRGB/{id}.tif", pixels)
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
        save(root / f"Image__8bit_NirRGB/{id}.{suffix}", numbers(4))
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
