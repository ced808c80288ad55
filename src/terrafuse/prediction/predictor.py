"""`ScenePredictor`: maps a whole scene with a segmenter."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.handles import block_cache
from terrafuse.errors import (
    BandError,
    ConfigError,
    DataError,
    GridMismatchError,
    MissingModalityError,
    ModelError,
    OutputError,
    UnknownNameError,
    unknown_name,
)
from terrafuse.modalities import Modality
from terrafuse.prediction.arrays import NUMPY, Array
from terrafuse.prediction.blending import Accumulator, Strip
from terrafuse.prediction.calibrated import Calibration
from terrafuse.prediction.class_values import choose_values
from terrafuse.prediction.devices import Device
from terrafuse.prediction.lattice import Lattice, Part
from terrafuse.prediction.leaving_out import absence, leave_out
from terrafuse.prediction.order import MapOrder
from terrafuse.prediction.product_table import DEFAULT_PRODUCTS, MOST_SET_CLASSES
from terrafuse.prediction.products import Beside, Products, open_map
from terrafuse.prediction.profile import MapProfile
from terrafuse.prediction.queues import read_ahead
from terrafuse.prediction.reading import cache_bytes, read_groups
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.prediction.settings import MapSettings, SampledRows
from terrafuse.prediction.sharing import Shard, WorkerSettings
from terrafuse.prediction.tta import View, average_views, scaled_size
from terrafuse.prediction.units import UnitPlan, plan_units
from terrafuse.prediction.windows import WindowSettings
from terrafuse.prediction.workers import map_by_workers
from terrafuse.progress import Progress
from terrafuse.samples import Batch, Window, round_up
from terrafuse.version import VERSION

if TYPE_CHECKING:
    import torch

    from terrafuse.data.scene import Scene
    from terrafuse.segmenter import Segmenter


class ScenePredictor:
    """Predictor that maps whole scenes with a model.

    The scene is read in the windows of a `Lattice`, by a thread that stays ahead of the model;
    overlapping logits are averaged. Windows without any data are not run. A method that needs every
    modality is not run on windows where one of them has no data at all; the pixels of such windows
    get no class, and a warning gives the number of windows.

    Args:
        model: A segmenter; it is moved to `device` and set to evaluation mode while predicting. Or
            another model that scores windows, such as an `OnnxModel`.
        windows: How scenes are cut, and how windows are run and blended.
        device: Of a segmenter: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" …
        calibration: Of the model's confidence; default: the softmax as it is.

    Raises:
        ConfigError: The device does not exist, or the model does not have the precision.
    """

    def __init__(
        self,
        model: Segmenter | SceneModel,
        windows: WindowSettings,
        *,
        device: torch.device | str = "auto",
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model if isinstance(model, SceneModel) else _of_torch(model, device)
        self.model.check_precision(windows.precision)
        self.windows = windows
        self.calibration = calibration or Calibration()

    def on(self, device: str) -> ScenePredictor:
        """Return the same, on another device."""
        return self._with(model=self.model.on(device))

    def calibrated(self, calibration: Calibration) -> ScenePredictor:
        """Return the same, with another calibration."""
        return self._with(calibration=calibration)

    def with_batch_size(self, size: int) -> ScenePredictor:
        """Return the same, with so many windows per forward pass."""
        return self._with(windows=replace(self.windows, batch_size=size))

    def _with(self, **changed: Any) -> ScenePredictor:
        """Return the same, but for some arguments of the constructor."""
        own = {"model": self.model, "windows": self.windows, "calibration": self.calibration}
        return ScenePredictor(**{**own, **changed})

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self.model.device

    @property
    def segmenter(self) -> Segmenter:
        """The model, where it is one of torch."""
        from terrafuse.prediction.torch_model import TorchModel

        assert isinstance(self.model, TorchModel), self.model
        return self.model.segmenter

    @property
    def tells_sets(self) -> bool:
        """Whether there are class sets, and bits for their classes."""
        return self.calibration.has_sets and self.model.num_classes <= MOST_SET_CLASSES

    def on_cpu(self) -> AbstractContextManager[None]:
        """Have the model in main memory, while it is sent to another process.

        Raises:
            ModelError: The model holds what cannot be sent.
        """
        return self.model.on_cpu()

    def check_sendable(self) -> None:
        """Refuse a model that workers cannot be given, before any scene is opened for them.

        Raises:
            ModelError: The model holds what cannot be sent.
        """
        with self.on_cpu():
            pickle.dump(self.model, _Nowhere())

    def lattice(self, scene: Scene) -> Lattice:
        """Return the windows of a scene."""
        grid = scene.grid
        return Lattice(
            grid.height,
            grid.width,
            self.windows.crop_size,
            self.windows.overlap,
            scene.alignment,
            self.windows.blending,
        )

    def plan(self, scene: Scene, settings: MapSettings | None = None) -> UnitPlan:
        """Return the units in which a scene is mapped."""
        products = (settings or MapSettings()).layers
        return plan_units(
            self.lattice(scene),
            self.model.num_classes,
            products,
            len(self.model.modalities),
        )

    def stream(
        self,
        scene: Scene,
        *,
        without: frozenset[str] | set[str] = frozenset(),
        settings: MapSettings | None = None,
        window: Window | None = None,
        progress: Progress | None = None,
        profile: MapProfile | None = None,
        sampled: SampledRows | None = None,
    ) -> Generator[Strip, None, None]:
        """Yield the map of a scene in strips from top to bottom that cover it exactly once.

        Args:
            scene: What is mapped.
            without: Modalities to leave out.
            settings: Products, which are the layers of the strips, and how they come about, but
                for the sieve, which needs the whole map. Default: the products of default.
            window: Part of the scene to map; its pixels are the same as in the map of all.
            progress: Called with (windows done, total windows).
            profile: Receives what each stage takes, and the number of windows that the model could
                not be run on, which is warned of otherwise.
            sampled: Products that are computed in some rows only.

        Raises:
            UnknownNameError: A modality does not exist.
            ConfigError: The windows are too small to be resized, or the model has more modalities
                than the product "sources" tells apart.
            MissingModalityError: A modality that the method needs is missing or left out.
            BandError: A modality's bands differ between scene and model.
            GridMismatchError: A modality's scale differs between scene and model.
            ModelError: The model does not return K finite scores per pixel.
        """
        settings = settings or MapSettings()
        layers = settings.layers
        used = self._used_modalities(scene, without)
        lattice = self.lattice(scene)
        part = Part.whole(lattice) if window is None else Part(lattice, window)
        calibrated = self.calibration.of(used)
        sums = Accumulator(
            part,
            self.model.num_classes,
            arrays=self.model.arrays,
            needs=settings.needs,
            abstain=settings.abstain,
            temperature=calibrated.temperature,
            set_threshold=calibrated.threshold,
            left_out=self._places(used) if settings.attributing else (),
            sampled=sampled,
        )
        done, is_told = 0, profile is not None
        cache = cache_bytes(scene, lattice.size, part.window.width)
        profile = profile or MapProfile()
        with (
            self.model.running(),
            block_cache(cache),
            closing(self._scored(scene, part, used, settings, profile)) as scored,
        ):
            for place, logits, valid, sources, left in scored:
                if place.row > sums.row and (strip := sums.advance(place.row, layers)):
                    yield strip
                sums.add(place, logits, valid, sources, left)
                done += 1
                if logits is None and _begins_in(place, part.window) and bool(valid.any()):
                    profile.lacking += 1
                if progress:
                    progress(done, len(part))
            if strip := sums.advance(part.window.row_stop, layers):
                yield strip
        if not is_told:
            self._tell_lacking(scene, profile, used)

    def class_map(
        self,
        scene: Scene,
        *,
        without: frozenset[str] | set[str] = frozenset(),
        progress: Progress | None = None,
    ) -> NDArray[np.uint8]:
        """Map a whole scene in memory: class indices, uint8 (H, W), 255 = no data."""
        settings = MapSettings(("class_map",))
        strips = self.stream(scene, without=without, settings=settings, progress=progress)
        return np.concatenate([strip.layers["class_map"] for strip in strips])

    def predict(
        self,
        scene: Scene,
        out_dir: Path | str,
        *,
        scheme: ClassScheme | None = None,
        products: Sequence[str] = DEFAULT_PRODUCTS,
        without: frozenset[str] | set[str] = frozenset(),
        values: str | None = None,
        areas: bool = False,
        facts: Mapping[str, object] | None = None,
        notes: Mapping[str, object] | None = None,
        resume: bool = False,
        shard: Shard | None = None,
        workers: WorkerSettings | None = None,
        progress: Progress | None = None,
        tta: Sequence[str] = (),
        abstain: float | None = None,
        sieve: int | None = None,
        tiles: int | None = None,
        beside: Beside | None = None,
    ) -> Products:
        """Write the products of a scene, and `prediction.json`, which describes them.

        Args:
            out_dir: Folder of the products; created if needed.
            scheme: Names and colours of the model's classes; default: the scene's.
            products: Names in `PRODUCTS`.
            without: Modalities to leave out.
            values: Of the class map: "code", "index", or None as `choose_values` has it.
            areas: Also write the area of each class, `areas.csv`; needs the product "class_map".
            facts: What else `prediction.json` is to say.
            notes: Likewise, of what may differ between runs that make one map.
            resume: True: go on with the units of an unfinished map of the same rasters, by the same
                model and settings.
            shard: Part of the scene to map; several runs with a shard each make the map together.
            workers: Processes that map; default: this one alone.
            progress: Called with (windows done, windows in all).
            tta: Test-time augmentation, as in `MapSettings`.
            abstain: Confidence below which a pixel has no class, likewise.
            sieve: Smallest patch of the class map in pixels, likewise.
            tiles: Side of the files that products are divided into, likewise.
            beside: Further files of the map.

        Raises:
            ConfigError: Areas, or what changes the class map, without a class map; a value that is
                not allowed; codes that a map cannot hold.
            UnknownNameError: No such product or augmentation.
            DataError: Not one pixel can be mapped.
            ModelError: The class scheme is not the model's.
            OutputError: The folder cannot be written; units that are finished stay in it.
            WorkerError: Worker processes die; likewise.
        """
        workers = workers or WorkerSettings()
        settings = MapSettings(tuple(products), tuple(tta), abstain, sieve, tiles)
        scheme = self.check(settings, scheme or scene.scheme, values=values, areas=areas)
        used = self._used_modalities(scene, without)
        self._tell_other_sets(scene, settings, used)
        plan = self.plan(scene, settings)
        self._check_settings(settings, plan.lattice)
        facts = {
            **self._facts(scene, scheme, used),
            **settings.to_dict(),
            **self._attribution_facts(settings, used),
            **(facts or {}),
        }
        key = {**facts, **self._identity(scene), "classes": scheme.to_dict()}
        profile = MapProfile(workers=workers.total)
        with open_map(
            Path(out_dir), scene.grid, scheme, settings.layers, values,
            plan=plan, key=key, resume=resume, shard=shard,
            settings=settings, modalities=[m.name for m in self.model.modalities],
        ) as writer:  # fmt: skip
            if writer.is_finished():
                return writer.existing(beside)
            empty = self._empty_units(scene, plan, writer.job.missing, used)
            writer.write_empty(empty)
            profile.empty_units = len(empty)
            profile.begin(sum(run.height * run.width for run in writer.job.tasks()))
            order = MapOrder(self, scene, writer, {"without": without, "settings": settings})
            _map(order, workers, profile, progress)
            self._tell_lacking(scene, profile, used)
            writer.job.look_at_others()
            if writer.job.left:
                return writer.existing(beside)
            if not writer.job.has_data:
                raise DataError(self._nothing_to_map(scene, used))
            try:
                facts |= notes or {}
                return writer.finish(facts, areas=areas, profile=profile, beside=beside)
            except OutputError:
                if writer.is_finished():  # another shard was faster, and has removed the units
                    return writer.existing(beside)
                raise

    def check(
        self,
        settings: MapSettings,
        scheme: ClassScheme | None,
        *,
        values: str | None = None,
        areas: bool = False,
    ) -> ClassScheme:
        """Refuse settings that no scene can be mapped with; return the scheme.

        Raises:
            ConfigError: Areas without a class map; codes that a map cannot hold; more modalities
                than the product "sources" tells apart; or class sets without a threshold.
            ModelError: The class scheme is not the model's.
        """
        checked = self._checked_scheme(scheme)
        if areas and "class_map" not in settings.products:
            raise ConfigError("areas are counted on the class map; add 'class_map' to the products")
        choose_values(checked, values, abstains=settings.abstain is not None)
        settings.source_bits([m.name for m in self.model.modalities])
        self._check_sets(settings)
        return checked

    def _empty_units(
        self, scene: Scene, plan: UnitPlan, numbers: Iterable[int], used: tuple[str, ...]
    ) -> list[int]:
        """Of these units, those that surely have no data, nor have windows that begin in them."""
        size, step = plan.lattice.size, scene.alignment
        found = []
        for number in numbers:
            unit = plan.window(number)
            row, col = unit.row // step * step, unit.col // step * step
            stop = round_up(min(unit.row_stop + size, scene.grid.height), step)
            end = round_up(min(unit.col_stop + size, scene.grid.width), step)
            if scene.is_surely_empty(Window(row, col, stop - row, end - col), used):
                found.append(number)
        return found

    def _check_sets(self, settings: MapSettings) -> None:
        """Refuse class sets that cannot be made.

        Raises:
            ConfigError: There is no threshold, or there are more classes than bits.
        """
        if "class_sets" not in settings.needs:
            return
        if not self.calibration.has_sets:
            raise ConfigError(
                "class sets need a threshold with a coverage, and the model's calibration has "
                "none. Set one (terrafuse calibrate RUN --conformal 0.9)"
            )
        classes = self.model.num_classes
        if "class_sets" in settings.products and classes > MOST_SET_CLASSES:
            raise ConfigError(
                f"the product 'class_sets' tells {MOST_SET_CLASSES} classes apart, and the model "
                f"has {classes}. Write 'class_set_size' instead"
            )

    def _tell_other_sets(self, scene: Scene, settings: MapSettings, used: Sequence[str]) -> None:
        """Warn of class sets of modalities that no coverage was set for."""
        if "class_sets" in settings.needs and not self.calibration.is_of(used):
            warnings.warn(
                f"scene '{scene.id}' is mapped with {'+'.join(used)}, and the coverage of class "
                f"sets was set with {self.calibration.full}: it may not hold. Calibrate each "
                "subset (terrafuse calibrate RUN --per-subset --conformal 0.9)",
                stacklevel=3,
            )

    def _identity(self, scene: Scene) -> dict[str, Any]:
        """What a map is made of: digests of the model and of the rasters' state."""
        grid = scene.grid
        crs = grid.crs.to_wkt() if grid.crs else None
        return {
            "model": self.model.digest,
            "rasters": scene.states(),
            "grid": [grid.height, grid.width, *grid.transform[:6], crs],
        }

    def _used_modalities(self, scene: Scene, without: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the modalities to run on, in the model's order."""
        names = [modality.name for modality in self.model.modalities]
        for name in without:
            if name not in names:
                raise UnknownNameError(unknown_name("modality", name, names))
        held = {m.name: m for m in scene.modalities if m.name not in scene.missing}
        used = tuple(name for name in names if name in held and name not in set(without))
        absent = [name for name in names if name not in used]
        if absent and not self.model.supports_missing:
            raise MissingModalityError(
                f"{self.model.name} needs every modality, but scene '{scene.id}' "
                f"would be mapped without {', '.join(absent)}. Give the rasters of all, or use a "
                "method that supports missing modalities (terrafuse methods)"
            )
        for modality in self.model.modalities:
            if modality.name in used:
                _check_suits(held[modality.name], modality, f"scene '{scene.id}'")
        return used

    def _checked_scheme(self, scheme: ClassScheme | None) -> ClassScheme:
        if scheme is None:
            raise ModelError(
                "the scene has no class scheme; give the one the model was trained with"
            )
        if scheme.num_classes != self.model.num_classes:
            raise ModelError(
                f"the model has {self.model.num_classes} classes, but the class scheme has "
                f"{scheme.num_classes} ({', '.join(scheme.names)}); use the one used in training"
            )
        return scheme

    def _facts(self, scene: Scene, scheme: ClassScheme, used: tuple[str, ...]) -> dict[str, object]:
        """Return the facts about a map that `prediction.json` records."""
        lattice = self.lattice(scene)
        return {
            "terrafuse_version": VERSION,
            "scene": scene.id,
            "modalities": list(used),
            "classes": list(scheme.names),
            "windows": {**self.windows.to_dict(), "size": lattice.size, "step": lattice.step},
            "calibration": self.calibration.facts(used),
            "device": self.device.type,
        }

    def _attribution_facts(self, settings: MapSettings, used: tuple[str, ...]) -> dict[str, object]:
        """Return what `prediction.json` says of how modalities were left out."""
        if not settings.attributing:
            return {}
        passes = len(settings.views) * (1 + len(_told_apart(used)))
        return {
            "left_out": {"modalities": list(used), "by": absence(self.model)},
            "passes_per_window": passes,
        }

    def _places(self, used: tuple[str, ...]) -> tuple[int, ...]:
        names = [modality.name for modality in self.model.modalities]
        return tuple(names.index(name) for name in used)

    def _check_settings(self, settings: MapSettings, lattice: Lattice) -> None:
        """Refuse settings that do not suit the scene's windows.

        Raises:
            ConfigError: Names what does not.
        """
        for view in settings.views:
            scaled_size(lattice.size, view.factor, lattice.alignment)

    def _tell_lacking(self, scene: Scene, profile: MapProfile, used: tuple[str, ...]) -> None:
        """Warn of windows that the model could not be run on."""
        if profile.lacking:
            warnings.warn(
                f"{profile.lacking} of {len(self.lattice(scene))} windows of scene '{scene.id}' "
                f"have no data in one of {', '.join(used)}, which "
                f"{self.model.name} needs; their pixels get no class",
                stacklevel=3,
            )

    def _nothing_to_map(self, scene: Scene, used: tuple[str, ...]) -> str:
        where = "in all of" if not self.model.supports_missing and len(used) > 1 else "in"
        names = ", ".join(used) or "any modality"
        return (
            f"all-nodata scene '{scene.id}': no pixel has data {where} {names}. "
            "Check the rasters' extent and their nodata values"
        )

    def _scored(
        self,
        scene: Scene,
        part: Part,
        used: tuple[str, ...],
        settings: MapSettings,
        profile: MapProfile,
    ) -> Generator[tuple[Window, Array | None, Array, Array | None, Array | None], None, None]:
        """Yield windows in the part's order.

        With logits (K, h, w) or None, valid, sources, and logits without each modality
        (M, K, h, w).
        """
        left_out = _told_apart(used) if settings.attributing else ()
        groups = read_groups(
            scene,
            part,
            used,
            # Of the whole scene, so that parts of it have batches of one size.
            batch_size=min(self.windows.batch_size, len(part.lattice)),
            needs_all=not self.model.supports_missing,
            bits=settings.source_bits([m.name for m in self.model.modalities]),
            as_arrays=self.model.arrays is NUMPY,
        )
        groups = (
            replace(group, batch=group.batch and self.model.read_ahead(group.batch))
            for group in groups
        )
        ahead = read_ahead(profile.timed_items("reading", groups))
        with closing(ahead):
            for group in profile.timed_items("waiting for reading", ahead):
                batches = [] if group.batch is None else [group.batch]
                batches += [leave_out(self.model, own, n) for own in batches for n in left_out]
                alignment = part.lattice.alignment
                made = [self._scores(own, settings.views, alignment, profile) for own in batches]
                scores = iter(zip(*made, strict=True))  # per window that is run
                for i, window in enumerate(group.windows):
                    valid = self.model.arrays.put(group.valid[i])
                    sources = self.model.arrays.put(group.sources[i]) if group.sources else None
                    logits, *rest = next(scores) if group.is_run[i] else (None,)
                    without = self.model.arrays.lib.stack(rest) if rest else None
                    yield window, logits, valid, sources, without

    def _scores(
        self, batch: Batch, views: Sequence[View], alignment: int, profile: MapProfile
    ) -> Array:
        batch = self.model.to_device(batch)
        if len(views) == 1:
            return self._logits(batch, profile)
        logits = partial(self._logits, profile=profile)
        return average_views(logits, batch, views, self.model.modalities, alignment)

    def _logits(self, batch: Batch, profile: MapProfile) -> Array:
        window, model = batch.windows[0], self.model
        with profile.model(len(batch.windows), window.height * window.width, model.wait):
            logits = model.scores(batch, self.windows.precision)
        expected = (
            len(batch.windows),
            self.model.num_classes,
            window.height,
            window.width,
        )
        if tuple(logits.shape) != expected:
            raise ModelError(
                f"{self.model.name} returns logits {tuple(logits.shape)}; "
                f"expected (N, K, H, W) = {expected}"
            )
        return logits


def _of_torch(segmenter: Segmenter, device: torch.device | str) -> SceneModel:
    from terrafuse.prediction.torch_model import TorchModel  # torch is there, if a segmenter is

    return TorchModel(segmenter, device)


def _map(
    order: MapOrder, workers: WorkerSettings, profile: MapProfile, progress: Progress | None
) -> None:
    """Map all rectangles that are missing."""
    job = order.writer.job
    tasks = job.tasks(workers.total)
    sizes = {task: len(job.plan.part(task)) for task in tasks}
    if not tasks:
        return
    if not workers.is_alone:
        map_by_workers(order, tasks, workers, profile, progress)
        return
    done, total = 0, sum(sizes.values())
    for task in tasks:

        def count(own: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + own, total)

        order.map(task, profile, count)
        done += sizes[task]


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: bytes) -> int:
        """Take bytes."""
        return len(data)


def _told_apart(used: tuple[str, ...]) -> tuple[str, ...]:
    """Modalities without which the model is run: of a single one nothing would be left."""
    return used if len(used) > 1 else ()


def _begins_in(window: Window, part: Window) -> bool:
    """Tell whether the first pixel of a window lies in a part: that of one part does."""
    return part.row <= window.row < part.row_stop and part.col <= window.col < part.col_stop


def _check_suits(found: Modality, trained: Modality, where: str) -> None:
    if found.bands != trained.bands:
        raise BandError(
            f"modality '{trained.name}' of {where} has bands {', '.join(found.bands)}; "
            f"the model was trained on {', '.join(trained.bands)}"
        )
    if found.scale_ratio != trained.scale_ratio:
        raise GridMismatchError(
            f"modality '{trained.name}' of {where} has scale {found.scale:g}; the model was "
            f"trained with {trained.scale:g}. Set this scale in the manifest, and the raster is "
            "resampled while it is read"
        )
