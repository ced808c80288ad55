"""Commands on models: train, load, evaluate, predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.config import RunConfig, load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import (
    Manifest,
    ReadingRules,
    Scene,
    load_manifest,
    open_dataset,
    scene_from_rasters,
)
from terrafuse.errors import ConfigError, SceneNotFoundError
from terrafuse.evaluation import evaluate as evaluate_scenes
from terrafuse.evaluation import scored_classes
from terrafuse.methods import create_segmenter, load_segmenter
from terrafuse.prediction import DEFAULT_PRODUCTS, Products, ScenePredictor, WindowSettings
from terrafuse.progress import Progress
from terrafuse.segmenter import Segmenter
from terrafuse.weights import RunInfo, check_same_scheme, write_metrics

Rasters = Mapping[str, str | Path | Sequence[str | Path]]


@dataclass(frozen=True)
class Run:
    """A trained model with its run folder.

    Args:
        segmenter: The model, in evaluation mode.
        info: Content of `model.json`.
        config: Settings it was trained with.
    """

    folder: Path
    segmenter: Segmenter
    info: RunInfo
    config: RunConfig

    def predict(
        self,
        out: str | Path,
        *,
        scene: str | None = None,
        rasters: Rasters | None = None,
        products: Sequence[str] = DEFAULT_PRODUCTS,
        windows: WindowSettings | None = None,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> Products:
        """Map a scene.

        Args:
            out: Folder of the products.
            scene: Scene of a manifest, "dataset.yaml#id".
            rasters: Modality → file or files, instead of `scene`.
            products: Names in `terrafuse.prediction.PRODUCTS`, such as "class_map", "entropy".
            windows: Default: the run's; `WindowSettings.of_run(run.config, overlap=64)` changes
                one of its settings.
            device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" …
            progress: Called with (windows done, total windows).

        Raises:
            ConfigError: Neither or both of `scene` and `rasters` are given.
            UnknownNameError: A product does not exist.
            DataError: The rasters do not suit the model or each other.
            OutputError: `out` cannot be written.
        """
        opened = self._open(scene, rasters)
        predictor = ScenePredictor(
            self.segmenter, windows or WindowSettings.of_run(self.config), device=device
        )
        try:
            return predictor.predict(
                opened,
                Path(out),
                scheme=self.info.scheme,
                products=products,
                progress=progress,
            )
        finally:
            opened.close()

    def evaluate(
        self,
        *,
        split: str | None = None,
        subsets: bool = False,
        manifest: str | Path | None = None,
        windows: WindowSettings | None = None,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Score the model on a split and write `metrics.json` into the run folder.

        Args:
            split: Name of the split; default: `evaluation.split` of the run.
            subsets: Also score every other subset of modalities.
            manifest: Dataset to use instead of the run's; its classes must be the same.
            windows: As in `predict`.
            device: As in `predict`.
            progress: Called with (windows done, total windows).

        Raises:
            SceneNotFoundError: The split has no labelled scenes.
            LabelError: Scenes lack the labels that `evaluation.reference` names.
            ConfigError: The dataset's classes differ from the run's.
        """
        path = Path(manifest) if manifest else self.config.data.manifest
        dataset = self._dataset(path)
        check_same_scheme(self.info, dataset.scheme, str(path))
        split = split or self.config.evaluation.split
        config = self.config.evaluation.model_copy(update={"split": split})
        scenes = [
            scene
            for scene in dataset.scenes(split)
            if scene.has_labels or scene.has_reference(config.reference)
        ]
        if not scenes:
            raise SceneNotFoundError(
                f"'{path}' has no labelled scenes in split '{split}'; "
                f"splits are {', '.join(dataset.splits) or 'none'}"
            )
        metrics = evaluate_scenes(
            self.segmenter,
            scenes,
            self.info.scheme,
            config,
            windows or WindowSettings.of_run(self.config),
            device=device,
            subsets=subsets,
            progress=progress,
        )
        metrics["settings"]["selected_on"] = self._selected_on()
        write_metrics(self.folder, metrics)
        return metrics

    def _selected_on(self) -> str | None:
        """Return the split whose score selected the weights; None if the last ones were kept."""
        log = self.folder / "log.csv"
        columns = log.read_text(encoding="utf-8").partition("\n")[0] if log.exists() else "val_"
        return self.config.training.validation_split if "val_" in columns else None

    def _open(self, scene: str | None, rasters: Rasters | None) -> Scene:
        if (scene is None) == (not rasters):
            raise ConfigError("give either a scene to map (dataset.yaml#id) or rasters")
        if scene is not None:
            path, _, scene_id = scene.rpartition("#")
            if not path or not scene_id:
                raise ConfigError(f"scene '{scene}' is not of the form dataset.yaml#id")
            return self._dataset(Path(path)).scene(scene_id)
        given = rasters or {}
        return scene_from_rasters(
            self.info.modalities,
            given,
            sources=self._rules(),
            grid=_reference(self.info, list(given)),
        )

    def _dataset(self, path: Path) -> Manifest:
        """Load a manifest as the model needs it: its modalities, rescaled as in training."""
        dataset = load_manifest(path).select([m.name for m in self.info.modalities])
        rules = self._rules()
        for name in dataset.modalities:
            trained = rules[name].generator if name in rules else None
            _check_same_generator(name, trained, dataset.rules[name].generator, path)
        return dataset.with_rescale({name: rule.rescale for name, rule in rules.items()})

    def _rules(self) -> dict[str, ReadingRules]:
        return {name: ReadingRules.from_dict(rule) for name, rule in self.info.rules.items()}


def _check_same_generator(name: str, trained: str | None, found: str | None, path: Path) -> None:
    if trained is not None and found != trained:
        raise ConfigError(
            f"modality '{name}' of '{path}' comes from generator {found or 'unknown'}; the model "
            f"was trained on that of {trained}. Generate its rasters with the same model and "
            "settings (terrafuse generate)"
        )


def _reference(info: RunInfo, given: Sequence[str]) -> str | None:
    """Choose the modality whose grid the scene gets: training's, else one of scale 1."""
    if info.grid in given:
        return info.grid
    return next((m.name for m in info.modalities if m.name in given and m.scale == 1), None)


def load(run: str | Path, *, merge: bool = False) -> Run:
    """Load a trained model from its run folder.

    Args:
        merge: True: merge low-rank updates into the weights: a little faster, and equal up to
            rounding.

    Raises:
        WeightsError: The folder is not a run folder, is damaged or of another version; or the base
            weights of a tuned run are missing or have changed.
    """
    folder = Path(run)
    segmenter, info = load_segmenter(folder, merge=merge)
    return Run(folder, segmenter.eval(), info, load_run_config(folder / STORED_CONFIG))


def evaluate(
    run: str | Path | Run,
    *,
    split: str | None = None,
    subsets: bool = False,
    manifest: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a trained model, or that in a run folder, on a split; see `Run.evaluate`."""
    opened = run if isinstance(run, Run) else load(run)
    return opened.evaluate(
        split=split, subsets=subsets, manifest=manifest, device=device, progress=progress
    )


def predict(
    run: str | Path | Run,
    out: str | Path,
    *,
    scene: str | None = None,
    rasters: Rasters | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Products:
    """Map a scene with a trained model, or that in a run folder; see `Run.predict`."""
    opened = run if isinstance(run, Run) else load(run)
    return opened.predict(out, scene=scene, rasters=rasters, device=device, progress=progress)


def train(
    config: str | Path | RunConfig,
    out: str | Path,
    *,
    overrides: Mapping[str, str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train as `run.yaml` specifies; return the run folder.

    Args:
        config: The settings, or their file.
        out: Run folder to create.
        overrides: Dotted keys → YAML values that replace those in the file.
        progress: Show a progress bar if stderr is a terminal.

    Raises:
        ConfigError: The settings are invalid.
        DataError: The data cannot be trained on.
        OutputError: `out` holds another run, or cannot be written.
    """
    from terrafuse.training import train as train_run  # Lightning takes seconds to import

    settings = config if isinstance(config, RunConfig) else load_run_config(config, overrides or {})
    return train_run(settings, Path(out), resume=resume, progress=progress)


def validate(config: str | Path, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Check `run.yaml`, its manifest and the method's options without reading pixels.

    Returns:
        Facts about the run: method, modalities, classes, scenes per split, parameters.

    Raises:
        ConfigError: The settings are invalid.
        DataError: The manifest is invalid.
        ModelError: The method cannot be built with these options.
    """
    from terrafuse.training import check_crop_size, check_settings  # seconds to import

    settings = load_run_config(config, overrides or {})
    check_settings(settings)
    dataset = open_dataset(settings.data)
    check_crop_size(settings.data, dataset)
    scored_classes(settings.evaluation, dataset.scheme)  # refuses unknown class names
    segmenter = create_segmenter(
        settings.method.name,
        list(dataset.modalities.values()),
        dataset.scheme.num_classes,
        settings.method.options,
    )
    return {
        "method": settings.method.name,
        "modalities": {m.name: list(m.bands) for m in dataset.modalities.values()},
        "classes": list(dataset.scheme.names),
        "scenes": dataset.splits,
        "parameters": sum(p.numel() for p in segmenter.parameters()),
    }
