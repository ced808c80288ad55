"""Maps of a trained model, be it a run folder or an exported file."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

from terrafuse.api.inputs import (
    Rasters,
    name_inputs,
    open_rasters,
    reading_rules,
    split_scene_name,
)
from terrafuse.data import Manifest, ReadingRules, Scene, load_manifest
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.data.value_scale import check_values
from terrafuse.errors import ConfigError, unknown_name
from terrafuse.maps import picture_and_item
from terrafuse.memory import explaining_memory
from terrafuse.prediction import (
    DEFAULT_PRODUCTS,
    Calibration,
    MapSettings,
    Products,
    ScenePredictor,
    Shard,
    WindowSettings,
    WorkerSettings,
)
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.prediction.tiling import product_files
from terrafuse.progress import Progress
from terrafuse.stopping import when_stopped
from terrafuse.weights import RunInfo
from terrafuse.writing import claimed, refuse_inputs

Conversions = Mapping[str, ValueConversion]
_STOPPED_MAP = "finished parts of the map are kept; run the same command with --resume"
_STOPPED_SHARD = "finished parts of the map are kept; run the same command again"


class TrainedModel(ABC):
    """A trained model that maps scenes."""

    #: Content of `model.json`.
    info: RunInfo

    @property
    @abstractmethod
    def calibration(self) -> Calibration | None:
        """Of its confidence, if it was calibrated."""

    @property
    @abstractmethod
    def place(self) -> Path:
        """Where it lies: a run folder, or a file."""

    @property
    @abstractmethod
    def model_file(self) -> Path:
        """File of its weights."""

    @property
    @abstractmethod
    def description(self) -> Mapping[str, Any]:
        """Content of `model.json`, as plain values."""

    @abstractmethod
    def windows(self, **given: Any) -> WindowSettings:
        """Return its settings of windows, each replaced by the argument given for it.

        Args:
            given: As those of `WindowSettings`; None: the run's value.

        Raises:
            ConfigError: The values contradict each other.
        """

    @abstractmethod
    def _model_on(self, device: str, workers: WorkerSettings) -> SceneModel:
        """Return what scores windows, on a device.

        Raises:
            ConfigError: No such device, or fewer GPUs than the workers ask for.
        """

    @abstractmethod
    def unchanging(self) -> AbstractContextManager[str]:
        """Take the digest of the model once for many maps."""

    @abstractmethod
    def _suit_memory(
        self,
        predictor: ScenePredictor,
        scene: Scene,
        settings: MapSettings,
        workers: WorkerSettings,
        out: Path,
        *,
        goes_on: bool,
    ) -> tuple[ScenePredictor, str]:
        """Choose the batch size where nobody has, and refuse what does not fit into memory.

        Args:
            goes_on: Whether an unfinished map in `out` is gone on with.

        Returns:
            What maps with it, and by what it was chosen.

        Raises:
            NotEnoughMemoryError: With the largest windows that fit.
        """

    def predictor(
        self,
        windows: WindowSettings | None = None,
        device: str = "auto",
        workers: int | WorkerSettings = 1,
        *,
        calibrated: bool = True,
    ) -> tuple[ScenePredictor, WorkerSettings]:
        """Return what maps scenes, and the processes that share its work.

        Raises:
            ConfigError: No such device, or fewer GPUs than asked for.
        """
        spread = WorkerSettings(workers) if isinstance(workers, int) else workers
        calibration = self.calibration if calibrated else None
        model = self._model_on(device, spread)
        return ScenePredictor(model, windows or self.windows(), calibration=calibration), spread

    def predict(
        self,
        out: str | Path,
        *,
        scene: str | Scene | None = None,
        rasters: Rasters | None = None,
        products: Sequence[str] = DEFAULT_PRODUCTS,
        values: str | None = None,
        areas: bool = False,
        convert: Conversions | None = None,
        trust_values: bool = False,
        windows: WindowSettings | None = None,
        device: str = "auto",
        resume: bool = False,
        facts: Mapping[str, object] | None = None,
        shard: str | None = None,
        workers: int | WorkerSettings = 1,
        progress: Progress | None = None,
        tta: Sequence[str] = (),
        abstain: float | None = None,
        sieve: int | None = None,
        tiles: int | None = None,
        calibrated: bool = True,
    ) -> Products:
        """Map a scene.

        Its values are compared with those of the training. Doubts about their scale are warned of
        and stand in `prediction.json`.

        Args:
            out: Folder of the products.
            scene: Scene of a manifest, "dataset.yaml#id", or one that is open.
            rasters: Modality → file or files, instead of `scene`; URLs, and STAC items whose assets
                are its bands, too.
            products: Names of `terrafuse.prediction.PRODUCTS`, such as "class_map", "entropy".
            values: Pixels of the class map: "code", "index", or None for the codes of the classes
                where a byte holds them and each class has one, else their indices.
            areas: Also write the area of each class, `areas.csv`.
            convert: Modality → how its values become those of the training's scale.
            trust_values: Map values of another scale as they are.
            windows: Default: the run's; `run.windows(overlap=64)` changes one of its settings.
            device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" …
            resume: Go on with an unfinished map in `out`, of the same rasters and settings.
            facts: What else `prediction.json` is to say.
            shard: "2/8": map the second of eight parts, beside runs that map the others into the
                same `out`. The one that finishes last writes the products; what others return has
                no files, and says in `waits_for` how many units are missing.
            workers: Processes that map, each with a model of its own; `WorkerSettings` also says
                on which GPUs or Ray cluster. A script that asks for more than one must do so under
                `if __name__ == "__main__":`, because they import it.
            progress: Called with (windows done, total windows).
            tta: Test-time augmentation: "flips", "turns", "scales". Logits are averaged over all
                combinations: 4, 4 and 3 passes per window, of both turns and flips 8, of all 24.
            abstain: Confidence (largest softmax probability) below which a pixel gets no class but
                a value of its own.
            sieve: Patches of the class map of fewer pixels are merged into their largest neighbour.
            tiles: Side in pixels, a multiple of 2048, of the files that each product is divided
                into: tiles in a folder of its name, and a VRT over them.
            calibrated: Use the run's calibration, if it has one. Classes are the same without.

        Raises:
            ConfigError: Neither or both of `scene` and `rasters`; codes that a map cannot hold;
                products or values that do not go together; no such shard or device.
            UnknownNameError: No such product or augmentation.
            DataError: The rasters do not suit the model or each other; or values are on another
                scale than the training's.
            OutputError: `out` cannot be written, another process writes there, or a product would
                be written over a raster of the scene; or the unfinished map is another one.
            WorkerError: Worker processes die; what is finished stays.
        """
        settings = MapSettings(tuple(products), tuple(tta), abstain, sieve, tiles)
        part = Shard.parse(shard) if shard else None
        conversions = self.checked(convert)
        predictor, spread = self.predictor(windows, device, workers, calibrated=calibrated)
        opened = self._open(scene, rasters).convert_values(conversions)
        self.tell_rules([opened])
        try:
            beside = picture_and_item(
                Path(out),
                name=opened.id,
                model=self.description,
                model_file=self.model_file,
            )
            refuse_inputs(
                (
                    *chain.from_iterable(product_files(Path(out), p) for p in products),
                    *(Path(out) / name for name in beside.names),
                ),
                chain.from_iterable(opened.paths().values()),
            )
            with (
                when_stopped(_STOPPED_SHARD if part else _STOPPED_MAP),
                claimed(out, "predict", part=str(part) if part else None),
                explaining_memory("mapping", smaller_windows(predictor.windows)),
            ):
                doubts = self.check_values([opened], conversions, trust_values)
                predictor, by = self._suit_memory(
                    predictor,
                    opened,
                    settings,
                    spread,
                    Path(out),
                    goes_on=resume or part is not None,
                )
                return predictor.predict(
                    opened,
                    Path(out),
                    scheme=self.info.scheme,
                    products=products,
                    values=values,
                    areas=areas,
                    facts={
                        **(facts or {}),
                        "converted": in_words(conversions),
                        "warnings": doubts,
                    },
                    notes={
                        "batch_size_by": by,
                        "inputs": name_inputs(self.place, scene, rasters, Path(out)),
                    },
                    resume=resume,
                    shard=part,
                    workers=spread,
                    progress=progress,
                    tta=tta,
                    abstain=abstain,
                    sieve=sieve,
                    tiles=tiles,
                    beside=beside,
                )
        finally:
            opened.close()

    def check_settings(
        self,
        *,
        products: Sequence[str] = DEFAULT_PRODUCTS,
        values: str | None = None,
        areas: bool = False,
        convert: Conversions | None = None,
        windows: WindowSettings | None = None,
        device: str = "auto",
        workers: int | WorkerSettings = 1,
        tta: Sequence[str] = (),
        abstain: float | None = None,
        sieve: int | None = None,
        tiles: int | None = None,
        calibrated: bool = True,
    ) -> dict[str, Any]:
        """Refuse settings that no scene can be mapped with; all are as in `predict`.

        Returns:
            What of them the pixels and files of a map depend on, as plain values.

        Raises:
            ConfigError: A setting is wrong, or does not go with another one.
            UnknownNameError: No such product or augmentation.
            ModelError: The model does not have the run's classes, or cannot be sent to workers.
        """
        settings = MapSettings(tuple(products), tuple(tta), abstain, sieve, tiles)
        conversions = self.checked(convert)
        predictor, spread = self.predictor(windows, device, workers, calibrated=calibrated)
        predictor.check(settings, self.info.scheme, values=values, areas=areas)
        if not spread.is_alone:
            predictor.check_sendable()
        return {
            "products": list(products),
            "values": values,
            "areas": areas,
            "windows": predictor.windows.to_dict(),
            "converted": in_words(conversions),
            "calibration": predictor.calibration.to_dict(),
            **settings.to_dict(),
        }

    def check_values(
        self, scenes: Sequence[Scene], conversions: Conversions | None = None, trust: bool = False
    ) -> list[str]:
        """Sentences on values that may be on another scale; also warned of.

        Raises:
            DataError: They clearly are, and are not trusted.
        """
        doubts = check_values(scenes, self.info.plain_statistics, conversions or {}, trust=trust)
        warn_of(doubts)
        return doubts

    def checked(self, conversions: Conversions | None) -> Conversions:
        """Refuse conversions of modalities that the model does not have.

        Raises:
            ConfigError: There is one.
        """
        names = [modality.name for modality in self.info.modalities]
        for name in conversions or {}:
            if name not in names:
                raise ConfigError(unknown_name("modality to convert", name, names))
        return conversions or {}

    def _open(self, scene: str | Scene | None, rasters: Rasters | None) -> Scene:
        if isinstance(scene, Scene) and not rasters:
            return scene
        if (scene is None) == (not rasters):
            raise ConfigError("give either a scene to map (dataset.yaml#id) or rasters")
        if isinstance(scene, str):
            path, scene_id = split_scene_name(scene)
            return self.dataset(path).scene(scene_id)
        return open_rasters(self.info, rasters or {})

    def dataset(self, path: Path) -> Manifest:
        """A manifest as the model needs it: its modalities, rescaled and masked as in training."""
        dataset = load_manifest(path).select([m.name for m in self.info.modalities])
        rules = reading_rules(self.info)
        for name in dataset.modalities:
            trained = rules[name].generator if name in rules else None
            _check_same_generator(name, trained, dataset.rules[name].generator, path)
        _tell_other_rule(rules, dataset, path)
        return dataset.read_as_trained(rules)

    def tell_rules(self, scenes: Sequence[Scene]) -> None:
        """Say of a run that is older than `nodata_rule` how its rasters are read."""
        old = [
            m.name
            for m in self.info.modalities
            if len(m.bands) > 1
            and "nodata_rule" not in self.info.rules.get(m.name, {"nodata_rule": ""})
            and any(m.name not in s.missing and s.source(m.name).has_nodata for s in scenes)
        ]
        if old:
            warnings.warn(
                f"'{self.place}' was trained when nodata was judged band by band, and reads "
                f"{', '.join(old)} so (nodata_rule: each): good pixels that have the nodata value "
                "in one band lose it. Train again to read them by 'all'",
                stacklevel=3,
            )


def warn_of(doubts: Sequence[str]) -> None:
    """Warn of what is doubtful."""
    for text in doubts:
        warnings.warn(text, stacklevel=4)


def smaller_windows(windows: WindowSettings) -> str:
    """What to do where windows do not fit into memory."""
    return (
        f"Choose a --batch-size below {windows.batch_size} or a --crop-size below "
        f"{windows.crop_size}"
    )


def _tell_other_rule(rules: Mapping[str, ReadingRules], dataset: Manifest, path: Path) -> None:
    for name, found in dataset.rules.items():
        trained = rules[name].nodata_rule if name in rules else found.nodata_rule
        if name in dataset.modalities and trained == "all" and found.nodata_rule == "each":
            warnings.warn(
                f"modality '{name}' of '{path}' has 'nodata_rule: each'; it is read by 'all', as "
                "the model was trained",
                stacklevel=3,
            )


def in_words(conversions: Conversions) -> dict[str, str]:
    """Return conversions as plain texts."""
    return {name: str(conversion) for name, conversion in conversions.items()}


def _check_same_generator(name: str, trained: str | None, found: str | None, path: Path) -> None:
    if trained is not None and found != trained:
        raise ConfigError(
            f"modality '{name}' of '{path}' comes from generator {found or 'unknown'}; the model "
            f"was trained on that of {trained}. Generate its rasters with the same model and "
            "settings (terrafuse generate)"
        )
