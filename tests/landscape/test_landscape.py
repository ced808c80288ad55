"""The synthetic place: what its sensors can and cannot tell apart, and that they see one place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from terrafuse.classes import ClassScheme
from terrafuse.data.manifest import load_manifest
from terrafuse.errors import ConfigError, OutputError
from terrafuse.landscape import class_scheme, make_landscape
from terrafuse.landscape.cover import make_cover
from terrafuse.landscape.ground import make_ground
from terrafuse.landscape.scenes import make_rasters
from terrafuse.landscape.surfaces import PALETTES, SURFACES
from terrafuse.samples import Window

SIZE = 256
WATER, WETLAND, ARABLE, GRASSLAND, FOREST, BUILDINGS, WHEAT, RAPE = range(8)


@pytest.fixture(scope="module")
def manifest_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_landscape(
        tmp_path_factory.mktemp("place"), seed=3, size=SIZE, train=2, val=1, test=2
    )


def read(path: Path) -> NDArray[np.generic]:
    with rasterio.open(path) as dataset:
        return dataset.read()


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.tif"))
    }


def test_same_seed_gives_same_files_and_other_seeds_other_places(tmp_path: Path) -> None:
    first = make_landscape(tmp_path / "a", seed=5, size=64, train=2, val=0, test=1)
    make_landscape(tmp_path / "b", seed=5, size=64, train=1, val=1, test=1)
    make_landscape(tmp_path / "c", seed=6, size=64, train=1, val=0, test=0)
    one, two, other = (digest(tmp_path / name) for name in "abc")
    assert first == tmp_path / "a" / "dataset.yaml"
    # A scene depends on its seed, split and number, not on how many others there are.
    shared = one.keys() & two.keys()
    assert {Path(name).stem for name in shared} == {"train_1", "test_1"}
    assert all(one[name] == two[name] for name in shared)
    assert all(one[name] != other[name] for name in other)
    assert len(set(one.values())) == len(one)  # no two scenes show the same place


def test_manifest_describes_the_files(manifest_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    assert manifest.splits == {"train": 2, "val": 1, "test": 2}
    assert list(manifest.modalities) == ["optical", "sar", "dsm"]
    assert manifest.modalities["sar"].scale == 2
    assert manifest.scheme == class_scheme()
    sample = manifest.scenes("val")[0].read(Window(0, 0, SIZE, SIZE))
    assert sample.images["optical"].shape == (4, SIZE, SIZE)
    assert sample.images["sar"].shape == (2, SIZE // 2, SIZE // 2)
    assert sample.images["dsm"].shape == (1, SIZE, SIZE)
    assert sample.labels is not None
    assert set(sample.labels.unique().tolist()) == {0, 1, 2, 3, 4, 5, 255}
    land = sample.images["optical"][3][sample.labels == FOREST]
    assert 0.1 < land.nanmedian() < 0.5  # reflectance, by the scale tag


def test_every_class_has_its_share(manifest_path: Path) -> None:
    labels = np.stack([read(path) for path in (manifest_path.parent / "labels").glob("*.tif")])
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert (shares[:6] >= 0.02).all(), shares[:6]
    assert shares[:6].max() < 0.5
    assert 0 < shares[255] < 0.1
    assert shares[6:255].sum() == 0


def test_every_class_appears_even_in_the_smallest_landscape(tmp_path: Path) -> None:
    make_landscape(tmp_path, seed=1, size=64, train=1, val=0, test=0)
    assert set(np.unique(read(tmp_path / "labels" / "train_1.tif"))) == {0, 1, 2, 3, 4, 5, 255}


def test_clouds_brighten_darken_and_blank(manifest_path: Path) -> None:
    folder = manifest_path.parent / "optical"
    cloudy, blanked = read(folder / "train_1.tif"), read(folder / "train_2.tif")
    assert (cloudy > 0).all()
    assert 0.01 < (cloudy[0] > 3000).mean() < 0.3
    assert 0.01 < (blanked[0] == 0).mean() < 0.3
    assert ((blanked == 0).all(axis=0) == (blanked == 0).any(axis=0)).all()
    with rasterio.open(folder / "train_1.tif") as dataset:
        assert dataset.nodata == 0
        assert dataset.descriptions == ("blue", "green", "red", "nir")


def test_sar_lies_between_the_optical_pixels(manifest_path: Path) -> None:
    with (
        rasterio.open(manifest_path.parent / "optical" / "val_1.tif") as optical,
        rasterio.open(manifest_path.parent / "sar" / "val_1.tif") as sar,
    ):
        assert sar.res == (20, 20)
        assert sar.transform.c == optical.transform.c - 10  # half a SAR pixel
        assert sar.bounds.left <= optical.bounds.left
        assert sar.bounds.bottom <= optical.bounds.bottom
        assert sar.bounds.right >= optical.bounds.right


def test_warped_sar_edges_match_the_optical_ones(manifest_path: Path) -> None:
    """Water is dark to the radar: the agreement is best where nothing is shifted."""
    scene = load_manifest(manifest_path).scenes("test")[0]
    sample = scene.read(Window(0, 0, SIZE, SIZE))
    assert sample.labels is not None
    water = (sample.labels.numpy() == WATER).astype(np.float32)
    water = water.reshape(SIZE // 2, 2, SIZE // 2, 2).mean(axis=(1, 3))
    vv = ndimage.median_filter(sample.images["sar"][0].numpy(), 3)

    def agreement(rows: int, cols: int) -> float:
        inner = (slice(8, -8), slice(8, -8))
        moved = np.roll(vv, (rows, cols), (0, 1))[inner]
        return float(-np.corrcoef(moved.ravel(), water[inner].ravel())[0, 1])

    shifts = {(r, c): agreement(r, c) for r in range(-2, 3) for c in range(-2, 3)}
    assert max(shifts, key=shifts.__getitem__) == (0, 0)
    assert shifts[0, 0] > 0.5


Features = dict[str, NDArray[np.float64]]


def read_features(path: Path, split: str) -> tuple[Features, NDArray[np.int64]]:
    """Per clear and labelled pixel: what each sensor sees, scaled to similar spreads."""
    features: list[Features] = []
    classes = []
    for scene in load_manifest(path).scenes(split):
        sample = scene.read(Window(0, 0, SIZE, SIZE))
        assert sample.labels is not None
        labels = sample.labels.numpy()
        optical = sample.images["optical"].numpy()
        power = ndimage.uniform_filter(10 ** (sample.images["sar"].numpy() / 10), (0, 3, 3))
        sar = (10 * np.log10(power)).repeat(2, 1).repeat(2, 2)
        height = sample.images["dsm"][0].numpy()
        raised = ndimage.maximum_filter(height - ndimage.grey_opening(height, (21, 21)), 3)
        clear = (labels < 255) & sample.valid["optical"].numpy() & (optical[0] < 0.12)
        features.append(
            {
                "optical": (optical * np.array([20, 20, 20, 8])[:, None, None])[:, clear].T,
                "sar": (sar / 3)[:, clear].T,
                "dsm": (raised / 3)[None][:, clear].T,
            }
        )
        classes.append(labels[clear])
    joined = {name: np.concatenate([f[name] for f in features]) for name in features[0]}
    return joined, np.concatenate(classes)


class NearestNeighbours:
    """How often a pixel's 31 nearest neighbours of the train split, 700 per class, name a class."""

    def __init__(self, path: Path) -> None:
        self.codes = range(load_manifest(path).scheme.num_classes)
        rng = np.random.default_rng(0)
        self.train, self.train_classes = self._draw(rng, *read_features(path, "train"), 700)
        self.test, self.classes = self._draw(rng, *read_features(path, "test"), 400)
        self._votes: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def _draw(
        self,
        rng: np.random.Generator,
        features: Features,
        classes: NDArray[np.int64],
        count: int,
    ) -> tuple[Features, NDArray[np.int64]]:
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(classes == k), count) for k in self.codes]
        )
        return {name: x[chosen] for name, x in features.items()}, classes[chosen]

    def votes(self, names: tuple[str, ...]) -> NDArray[np.int64]:
        if names not in self._votes:
            tree = cKDTree(np.hstack([self.train[name] for name in names]))
            _, near = tree.query(np.hstack([self.test[name] for name in names]), k=31)
            found = self.train_classes[near]
            self._votes[names] = np.stack([(found == k).sum(1) for k in self.codes], 1)
        return self._votes[names]

    def tell_apart(self, first: int, second: int, *names: str) -> float:
        """Mean recall of the two classes when only they are possible; 0.5 is chance."""
        votes = self.votes(names)
        is_first = votes[:, first] >= votes[:, second]
        return float(
            np.mean(
                [is_first[self.classes == first].mean(), (~is_first)[self.classes == second].mean()]
            )
        )


@pytest.fixture(scope="module")
def neighbours(manifest_path: Path) -> NearestNeighbours:
    return NearestNeighbours(manifest_path)


def test_arable_and_grassland_are_an_exclusive_or(neighbours: NearestNeighbours) -> None:
    for alone in ("optical", "sar", "dsm"):
        assert neighbours.tell_apart(ARABLE, GRASSLAND, alone) < 0.6, alone
    assert neighbours.tell_apart(ARABLE, GRASSLAND, "optical", "sar") > 0.7


@pytest.mark.parametrize(
    ("first", "second", "blind", "seeing"),
    [
        (WETLAND, GRASSLAND, "optical", "sar"),
        (WETLAND, BUILDINGS, "sar", "optical"),
        (BUILDINGS, ARABLE, "optical", "dsm"),
        (FOREST, ARABLE, "sar", "dsm"),
        (WATER, GRASSLAND, "sar", "optical"),
    ],
)
def test_one_sensor_sees_what_another_cannot(
    neighbours: NearestNeighbours, first: int, second: int, blind: str, seeing: str
) -> None:
    alone = neighbours.tell_apart(first, second, blind)
    jointly = neighbours.tell_apart(first, second, blind, seeing)
    assert alone < 0.9
    assert jointly > 0.75
    assert jointly > alone + 0.04


def test_all_sensors_together_beat_every_pair(neighbours: NearestNeighbours) -> None:
    def accuracy(*names: str) -> float:
        return float((neighbours.votes(names).argmax(1) == neighbours.classes).mean())

    single = [accuracy(name) for name in ("optical", "sar", "dsm")]
    assert max(single) < 0.7
    assert accuracy("optical", "sar", "dsm") > max(single) + 0.1


@pytest.mark.parametrize(("one", "other"), [("arable", "grassland"), ("wheat", "rape")])
def test_exclusive_or_pair_shares_palettes_and_backscatter(one: str, other: str) -> None:
    looks = {
        name: {(s.palette, s.vv_db, s.vh_db) for s in SURFACES if s.class_name == name}
        for name in (one, other)
    }
    assert looks[one].isdisjoint(looks[other])
    for part in range(3):  # each marginal is equal, only the pairing differs
        assert {x[part] for x in looks[one]} == {x[part] for x in looks[other]}


def test_no_other_surface_has_the_colours_of_wheat_and_rape() -> None:
    crops = {s.palette for s in SURFACES if s.class_name in ("wheat", "rape")}
    others = {s.palette for s in SURFACES if s.class_name not in ("wheat", "rape")}
    assert crops == {"lush", "yellow"}
    assert crops.isdisjoint(others)
    assert crops | others == set(PALETTES)


def information_bits(counts: NDArray[np.int64]) -> float:
    """Mutual information of rows and columns of a table of counts, in bits."""
    joint = counts / counts.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    found = joint > 0
    return float((joint[found] * np.log2(joint[found] / product[found])).sum())


def test_information_of_tables_worked_out_by_hand() -> None:
    assert information_bits(np.array([[5, 5], [5, 5]])) == 0
    assert information_bits(np.array([[8, 0], [0, 8]])) == pytest.approx(1)
    assert information_bits(np.array([[2, 2], [0, 0]])) == 0
    # Rows: 3/4, 1/4; of the first a third is in the second column, of the second all.
    expected = 1 - 0.75 * (np.log2(3) - 2 / 3)
    assert information_bits(np.array([[2, 1], [0, 1]])) == pytest.approx(expected)


@pytest.fixture(scope="module")
def crop_objects() -> NDArray[np.int64]:
    """How many patches of wheat and rape there are: (colour, backscatter, class), 2 each."""
    counts = np.zeros((2, 2, 2), np.int64)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        surface = make_cover(rng, make_ground(rng, SIZE), synergy=True).surface
        for index, kind in enumerate(SURFACES):
            if kind.class_name in ("wheat", "rape"):
                cell = (kind.palette == "yellow", kind.vv_db > -12, kind.class_name == "rape")
                counts[tuple(map(int, cell))] += ndimage.label(surface == index)[1]
    return counts


def test_one_sensor_knows_nothing_of_wheat_and_rape_and_two_know_all(
    crop_objects: NDArray[np.int64],
) -> None:
    assert crop_objects.sum() > 600
    colour, backscatter = crop_objects.sum(1), crop_objects.sum(0)
    # Of so many tosses of fair coins the information is about 1 / (2 ln 2 · count) by chance.
    for alone in (colour, backscatter, crop_objects.sum(2)):
        assert information_bits(alone) < 0.005
        assert alone.min() > 0.2 * alone.sum()
    assert information_bits(crop_objects.reshape(4, 2)) > 0.98


def test_synergy_changes_fields_only() -> None:
    plain, synergy = (
        make_rasters(np.random.default_rng(4), SIZE, blank_clouds=True, synergy=on)
        for on in (False, True)
    )
    changed = (plain.labels != synergy.labels)[0]
    assert set(np.unique(plain.labels[0, changed])) == {ARABLE, GRASSLAND}
    assert set(np.unique(synergy.labels[0, changed])) == {WHEAT, RAPE}
    shares = np.bincount(synergy.labels.ravel(), minlength=256) / synergy.labels.size
    assert shares[[WHEAT, RAPE]].sum() > 0.2
    assert 0.6 < shares[WHEAT] / shares[RAPE] < 1.7
    np.testing.assert_array_equal(plain.dsm, synergy.dsm)
    # Sensors blur: a few pixels from what changed, and from what lies outside, all is equal.
    far = ~ndimage.binary_dilation(
        np.pad(changed[6:-6, 6:-6], 6, constant_values=True), iterations=6
    )
    assert far.sum() > 1000
    np.testing.assert_array_equal(plain.optical[:, far], synergy.optical[:, far])


def test_wheat_and_rape_as_the_sensors_see_them(tmp_path: Path) -> None:
    path = make_landscape(tmp_path, seed=3, size=SIZE, train=2, val=0, test=2, synergy=True)
    assert load_manifest(path).scheme == class_scheme(synergy=True)
    neighbours = NearestNeighbours(path)
    for alone in ("optical", "sar", "dsm"):
        assert 0.4 < neighbours.tell_apart(WHEAT, RAPE, alone) < 0.6, alone
    assert neighbours.tell_apart(WHEAT, RAPE, "optical", "sar") > 0.8


def test_the_landscape_of_a_seed_stays_what_it_was() -> None:
    """Published scores are of these scenes. One draw more or less would change every pixel.

    Sums instead of a digest of the files: sines and transforms of other processors may differ in
    the last place.
    """
    rasters = make_rasters(np.random.default_rng([11, 0, 0]), 96, blank_clouds=False)
    counts = np.bincount(rasters.labels.ravel(), minlength=256)[[*range(6), 255]]
    np.testing.assert_allclose(counts, [1014, 513, 1724, 1363, 3507, 275, 820], atol=2)
    assert rasters.optical.mean() == pytest.approx(1743.2039, rel=1e-5)
    assert rasters.sar.mean() == pytest.approx(-14.95783, rel=1e-5)
    assert rasters.dsm.mean() == pytest.approx(238.45236, rel=1e-5)


def test_class_scheme_is_what_the_manifest_says() -> None:
    scheme = class_scheme()
    assert ClassScheme.from_dict(scheme.to_dict()) == scheme
    assert scheme.names[BUILDINGS] == "buildings"
    assert scheme.void == (255,)


@pytest.mark.parametrize(
    "options", [{"size": 32}, {"train": -1}, {"train": 0, "val": 0, "test": 0}]
)
def test_refuses_what_it_cannot_make(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"too small|none may be negative"):
        make_landscape(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        make_landscape(tmp_path / "file", size=64, train=1, val=0, test=0)
