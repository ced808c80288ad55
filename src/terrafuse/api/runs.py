"""Commands on models: train, load, evaluate, predict."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from terrafuse.api.inputs import Rasters
from terrafuse.api.mapping import (
    Conversions,
    TrainedModel,
    in_words,
    smaller_windows,
    warn_of,
)
from terrafuse.config import EvaluationConfig, RunConfig, load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.config.paths import exists
from terrafuse.data import (
    Manifest,
    Scene,
)
from terrafuse.data.label_files import ReferenceName
from terrafuse.data.painted import learnt_in
from terrafuse.data.polygons import RegionFile
from terrafuse.data.streaming import first_scenes
from terrafuse.data.value_scale import (
    ScaleFinding,
    compare_scenes,
    judge_scales,
)
from terrafuse.describe.memory import check_prediction, fit_batch
from terrafuse.errors import (
    ConfigError,
    NotEnoughMemoryError,
    SceneNotFoundError,
    unknown_name,
)
from terrafuse.evaluation import SCORED, Keeping, OnMap, scored_classes
from terrafuse.evaluation import evaluate as evaluate_scenes
from terrafuse.evaluation.cell_counts import CERTAINTY
from terrafuse.evaluation.evidence import EVIDENCE, Evidence, save_evidence
from terrafuse.evaluation.further import FurtherScore
from terrafuse.evaluation.objects import ObjectScores
from terrafuse.evaluation.regions import RegionScores
from terrafuse.evaluation.trimap import TrimapScores
from terrafuse.memory import explaining_memory
from terrafuse.methods import load_segmenter
from terrafuse.modalities import BandStatistics
from terrafuse.prediction import (
    Calibration,
    MapSettings,
    Products,
    ScenePredictor,
    Shard,
    WindowSettings,
    WorkerSettings,
    find_device,
    read_calibration,
    unchanging,
)
from terrafuse.prediction.job import MapJob
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.prediction.torch_model import TorchModel
from terrafuse.progress import Progress
from terrafuse.segmenter import Segmenter
from terrafuse.stopping import when_stopped
from terrafuse.version import VERSION
from terrafuse.weights import (
    METRICS_JSON,
    STATE_FILE,
    RunInfo,
    check_same_scheme,
    digest,
    digest_values,
    run_folder,
    write_further_metrics,
    write_metrics,
)
from terrafuse.weights.onnx_file import refuse_exported
from terrafuse.writing import claimed

_DIGITS = 16
#: Instead of a split: scenes of all of them, and those of none.
ANY_SPLIT = "any"
_STOPPED_SCORES = "scores of finished scenes are kept; run the same command with --resume"
_STOPPED_SCORES_SHARD = "scores of finished scenes are kept; run the same command again"


@dataclass(frozen=True)
class Run(TrainedModel):
    """A trained model with its run folder.

    Args:
        segmenter: The model, in evaluation mode.
        info: Content of `model.json`.
        config: Settings it was trained with.
        calibration: Of its confidence, if it was calibrated (`calibrate`).
    """

    folder: Path
    segmenter: Segmenter
    info: RunInfo
    config: RunConfig
    calibration: Calibration | None = None

    @property
    def place(self) -> Path:
        """The run folder."""
        return self.folder

    @property
    def model_file(self) -> Path:
        """See `TrainedModel`."""
        return self.folder / STATE_FILE

    @property
    def description(self) -> Mapping[str, Any]:
        """See `TrainedModel`."""
        return self.info.to_dict()

    def windows(self, **given: Any) -> WindowSettings:
        """See `TrainedModel`."""
        return WindowSettings.of_run(self.config, **given)

    def unchanging(self) -> AbstractContextManager[str]:
        """See `TrainedModel`; nothing may train it meanwhile."""
        return unchanging(self.segmenter)

    def evaluate(
        self,
        *,
        split: str | None = None,
        subsets: bool = False,
        manifest: str | Path | None = None,
        scenes: Sequence[str] | None = None,
        convert: Conversions | None = None,
        trust_values: bool = False,
        windows: WindowSettings | None = None,
        device: str = "auto",
        on_map: OnMap | None = None,
        resume: bool = False,
        shard: str | None = None,
        workers: int | WorkerSettings = 1,
        progress: Progress | None = None,
        calibrated: bool = True,
        objects: Sequence[str] = (),
        least_object_px: int = 1,
        trimap: Sequence[float] = (),
        regions: str | None = None,
    ) -> dict[str, Any]:
        """Score the model on a split; write `metrics.json` and `evidence.npz` into the run folder.

        The latter holds the counts that the scores are sums of; see
        `terrafuse.evaluation.evidence`. Scenes of another dataset are compared with the training as
        in `predict`. Their scores, and those of chosen scenes, stand in files of their own:
        `metrics_NAME.json` and `evidence_NAME.npz`.

        Args:
            split: Name of the split; default: `evaluation.split` of the run, or any where `scenes`
                are named.
            subsets: Also score every other subset of modalities.
            manifest: Another dataset than the run's; its classes must be the same.
            scenes: Ids of the scenes, or patterns of them ("albania_*"); default: all of the split.
            convert: As in `predict`, for another dataset.
            trust_values: As in `predict`.
            windows: As in `predict`.
            device: As in `predict`.
            on_map: Called with each scene that is scored now, its labels and its class map.
            resume: Go on with scores of the same scenes, model and settings that were stopped.
            shard: "2/8": score the second of eight parts of the scenes, beside runs that score the
                others. The one that finishes last writes the scores; what others return has
                `waits_for` alone, the number of scenes that are missing.
            workers: Processes that score, each with a model, as in `predict`; of this machine only.
            progress: Called with (windows done, windows in all; of many scenes an estimate).
            calibrated: As in `predict`; scores of classes are the same without.
            objects: Classes whose connected pixels are scored as objects, such as "building".
            least_object_px: Smaller objects do not count.
            trimap: Distances in pixels, rising, within which of the boundaries of the reference
                pixels are scored apart.
            regions: Vector file of polygons whose pixels are scored apart, "FILE:COLUMN" or "FILE".

        Raises:
            SceneNotFoundError: The split has no labelled scenes, or a pattern fits none.
            DataError: Values are on another scale than the training's.
            LabelError: Scenes of it lack the labels that `evaluation.reference` names.
            ConfigError: The dataset has another class scheme than the run; or no such shard, class
                of objects, or distance.
            OutputError: The run folder cannot be written, or another process writes there.
            WorkerError: Worker processes die; scores of finished scenes are kept.
        """
        part = Shard.parse(shard) if shard else None
        further_scores = self._further_scores(objects, least_object_px, trimap, regions)
        predictor, spread = self.predictor(windows, device, workers, calibrated=calibrated)
        choice = self.choose_scenes(split, manifest, scenes, convert)
        chosen, config, conversions = choice.scenes, choice.config, choice.conversions
        is_own, name = choice.is_own, choice.name
        self.tell_rules(chosen)
        keeping = choice.keeping(self.folder / f"{SCORED}{name}")
        notes: dict[str, tuple[Any, ...]] = {}
        evidence: list[Evidence] = []
        with (
            when_stopped(_STOPPED_SCORES_SHARD if part else _STOPPED_SCORES),
            claimed(self.folder, "evaluate", part=str(part) if part else None),
            explaining_memory("scoring", smaller_windows(predictor.windows)),
        ):
            first = first_scenes(chosen)
            look = _Look(
                frozenset(scene.id for scene in first),
                None if is_own else self.info.plain_statistics,
                conversions,
                len(chosen),
                trust_values,
            )
            known = look.compare(first)
            doubts = look.judge(known)
            warn_of(doubts)
            check_scored_memory(predictor, first)
            look.see(first)
            metrics = evaluate_scenes(
                self.segmenter,
                chosen,
                self.info.scheme,
                config,
                predictor.windows,
                device=device,
                subsets=subsets,
                on_map=on_map,
                look=look,
                notes=notes,
                on_evidence=evidence.append,
                keeping=keeping,
                resume=resume,
                shard=part,
                workers=spread,
                progress=progress,
                calibration=predictor.calibration,
                further=further_scores,
            )
            file = self.folder / (f"metrics{name}.json" if choice.is_further else METRICS_JSON)
            if "waits_for" in metrics:
                if not metrics["waits_for"] and file.exists():
                    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                    return found
                return metrics
            metrics["settings"]["selected_on"] = self._selected_on() if is_own else None
            further = choice.further
            facts = self._facts_of_scores(choice.path)
            facts |= {k: further[k] for k in ("scenes", "converted")}
            beside = {f"{EVIDENCE}{name}.npz": partial(_save_evidence, evidence[0], facts)}
            if choice.is_further:
                metrics["settings"] |= further
                metrics["warnings"] = look.all_doubts(known, doubts, notes)
                write_further_metrics(file, metrics, beside)
            else:
                write_metrics(self.folder, metrics, beside)
            keeping.remove()
            return metrics

    def _further_scores(
        self, objects: Sequence[str], least_px: int, trimap: Sequence[float], regions: str | None
    ) -> list[FurtherScore]:
        """Options of `evaluate` as scores.

        Raises:
            ConfigError: One is not allowed.
        """
        scheme, config = self.info.scheme, self.config.evaluation
        rule: dict[str, Any] = {
            "class_mean": config.class_mean,
            "mean_over": scored_classes(config, scheme),
        }
        found: list[FurtherScore] = []
        if objects:
            found.append(ObjectScores.of(objects, scheme, least_px))
        elif least_px != 1:
            raise ConfigError("the smallest object has an effect only with objects (--objects)")
        if trimap:
            found.append(TrimapScores(tuple(trimap), scheme.num_classes, **rule))
        if regions is not None:
            found.append(RegionScores(RegionFile.parse(regions), scheme.names, **rule))
        return found

    def choose_scenes(
        self,
        split: str | None = None,
        manifest: str | Path | None = None,
        scenes: Sequence[str] | None = None,
        convert: Conversions | None = None,
    ) -> ChosenScenes:
        """Choose the scenes to score; all arguments are as in `evaluate`.

        Raises:
            SceneNotFoundError: The split has no labelled scenes, or a pattern fits none.
            ConfigError: The dataset is not there, or has another class scheme than the run.
        """
        path = Path(manifest) if manifest else self.config.data.manifest
        if not manifest and not exists(path):
            raise ConfigError(
                f"the dataset that '{self.folder}' was trained on is not there: no file '{path}'. "
                "A run from elsewhere comes without its data; name some with --manifest "
                "(manifest=…)"
            )
        dataset = self.dataset(path)
        check_same_scheme(self.info, dataset.scheme, str(path))
        split = split or (ANY_SPLIT if scenes else self.config.evaluation.split)
        config = self.config.evaluation.model_copy(update={"split": split})
        chosen = reference_scenes(dataset, split, config.reference)
        _tell_truth(self.folder, chosen)
        if scenes:
            chosen = _fitting(chosen, scenes, f"split '{split}' of '{path}'")
        conversions = self.checked(convert)
        return ChosenScenes(
            [scene.convert_values(conversions) for scene in chosen],
            config,
            path,
            path.resolve() == self.config.data.manifest.resolve(),
            tuple(scenes or ()),
            conversions,
            dataset,
        )

    def _facts_of_scores(self, manifest: Path) -> dict[str, Any]:
        """What `evidence.npz` says of the model and of the data beside what `evaluate` knows."""
        info, config = self.info, self.config
        settings = config.model_dump(mode="json")
        settings["data"]["manifest"] = _short_name(config.data.manifest)
        for part, key in (("training", "seed"), ("data", "label_seed")):
            settings[part].pop(key)
        return {
            "manifest": _short_name(manifest),
            "method": info.method,
            "backbone": info.method_options.get("backbone"),
            "steps": config.training.steps,
            "seed": config.training.seed,
            "settings": _digest_settings(settings),
            "model": (info.state_sha256 or digest_values(self.segmenter.state_dict()))[:_DIGITS],
            "terrafuse_version": VERSION,
        }

    def _model_on(self, device: str, workers: WorkerSettings) -> SceneModel:
        """See `TrainedModel`."""
        model = TorchModel(self.segmenter, device)
        workers.device_names(model.device)  # refuses GPUs that are not there
        return model

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
        """See `TrainedModel`."""
        predictor, by = self._fit_batch(predictor, scene, settings, workers, out, goes_on=goes_on)
        # What was chosen, by the batch or by the workers, may clearly not fit.
        check_prediction(**self._memory_of(predictor, scene, settings, workers))
        return predictor, by

    def _fit_batch(
        self,
        predictor: ScenePredictor,
        scene: Scene,
        settings: MapSettings,
        workers: WorkerSettings,
        out: Path,
        *,
        goes_on: bool,
    ) -> tuple[ScenePredictor, str]:
        """Choose the batch size by the free memory, where nobody has chosen one.

        Those who make one map together, now or later, must have the same: that of an unfinished map
        holds, and shards and nodes of a cluster, which do not see each other's memory, keep that of
        the training.

        Args:
            goes_on: Whether an unfinished map in `out` is gone on with.

        Returns:
            What maps with it, and by what it was chosen.
        """
        windows = predictor.windows
        if windows.is_batch_chosen:
            return predictor, "setting"
        begun = MapJob.begun_with(out, "windows") if goes_on else None
        if isinstance(begun, dict) and isinstance(begun.get("batch_size"), int):
            # The map must say the same whether it was gone on with or not.
            by = "training" if begun["batch_size"] == windows.batch_size else "free memory"
            return predictor.with_batch_size(begun["batch_size"]), by
        if goes_on or workers.cluster is not None:
            return predictor, "training"
        size = fit_batch(**self._memory_of(predictor, scene, settings, workers))
        if size == windows.batch_size:
            return predictor, "training"
        if size < windows.batch_size:
            warnings.warn(
                f"the training's batch size {windows.batch_size} does not fit into the free memory "
                f"for windows of {windows.crop_size} pixels; {size} at a time are mapped instead. "
                "--batch-size sets another number",
                stacklevel=3,
            )
        return predictor.with_batch_size(size), "free memory"

    def _memory_of(
        self,
        predictor: ScenePredictor,
        scene: Scene,
        settings: MapSettings,
        workers: WorkerSettings,
    ) -> dict[str, Any]:
        """Arguments of `check_prediction` and `fit_batch`."""
        windows = predictor.windows
        plan = predictor.plan(scene, settings)
        return {
            "segmenter": self.segmenter,
            "crop_size": windows.crop_size,
            "batch_size": windows.batch_size,
            "sizes": [(scene.grid.height, min(scene.grid.width, plan.width))],  # made in columns
            "device": predictor.device,
            "precision": windows.precision,
            "enlarged": max(view.factor for view in settings.views),
            "further_bytes": settings.further_bytes(
                self.segmenter.num_classes, len(self.segmenter.modalities)
            ),
            # Of a cluster, nodes watch their own memory.
            "processes": min(workers.count, len(plan)) if workers.cluster is None else 1,
        }

    def _selected_on(self) -> str | None:
        """Return the split whose score selected the weights; None if the last ones were kept."""
        log = self.folder / "log.csv"
        columns = log.read_text(encoding="utf-8").partition("\n")[0] if log.exists() else "val_"
        return self.config.training.validation_split if "val_" in columns else None


@dataclass(frozen=True)
class ChosenScenes:
    """Scenes that are scored, and what their scores depend on.

    Args:
        config: Scoring rules, with the name of the split.
        path: The manifest.
        is_own: Whether it is that of the training.
        patterns: What the ids of the scenes fit; empty: all of the split.
    """

    scenes: list[Scene]
    config: EvaluationConfig
    path: Path
    is_own: bool
    patterns: tuple[str, ...]
    conversions: Conversions
    dataset: Manifest

    @property
    def is_further(self) -> bool:
        """Whether scores have files of their own beside those of the run's split."""
        return bool(not self.is_own or self.patterns or self.conversions)

    @property
    def further(self) -> dict[str, Any]:
        """What further scores say about themselves."""
        return {
            "manifest": None if self.is_own else str(self.path.resolve()),
            "scenes": list(self.patterns),
            "converted": in_words(self.conversions),
        }

    @property
    def name(self) -> str:
        """Part of the names of files that tells scores apart; see `results_name`."""
        settings = self.further if self.is_further else {}
        return results_name({"split": self.config.split, "settings": settings})

    def keeping(self, folder: Path, **facts: str) -> Keeping:
        """Where scores of finished scenes are kept, and what of the data they depend on.

        Args:
            facts: What else they depend on.
        """
        entries = {entry.id: entry for entry in self.dataset.entries}

        def own_facts() -> dict[str, Any]:
            rules = replace(self.dataset, entries=()).to_dict()
            return {"manifest": rules, "conversions": self.further["converted"], **facts}

        return Keeping(folder, own_facts, lambda id: entries[id].to_dict())


@dataclass
class _Look:
    """Checks of scenes that are too many to be opened before the first is scored.

    Args:
        checked: Ids of those that were checked before.
        statistics: What values are compared with; None: they are not.
        scenes: Number of all scenes.
        trust: Whether values of another scale are taken as they are.
        largest: Most pixels of a scene whose memory was checked.
    """

    checked: frozenset[str]
    statistics: Mapping[str, BandStatistics] | None
    conversions: Conversions
    scenes: int
    trust: bool
    largest: int = 0

    def __call__(self, predictor: ScenePredictor, scene: Scene) -> list[list[str | None]]:
        """Check a scene when its turn comes; return what is doubtful about its values.

        Raises:
            DataError: They are on another scale.
            NotEnoughMemoryError: It clearly does not fit into memory.
        """
        if scene.id in self.checked:
            return []
        if scene.grid.height * scene.grid.width > self.largest:
            self.see([scene])
            check_scored_memory(predictor, [scene])
        found = self.compare([scene])
        self.judge(found)
        return [finding.to_list() for _, finding in found]

    def see(self, scenes: Sequence[Scene]) -> None:
        """Take down how large the largest scene is."""
        self.largest = max(self.largest, *(s.grid.height * s.grid.width for s in scenes))

    def compare(self, scenes: Sequence[Scene]) -> list[tuple[str, ScaleFinding]]:
        """What differs between their values and those of the training."""
        if self.statistics is None:
            return []
        return list(compare_scenes(scenes, self.statistics, self.conversions))

    def judge(self, found: Sequence[tuple[str, ScaleFinding]]) -> list[str]:
        """See `judge_scales`."""
        return judge_scales(found, self.scenes, self.conversions, trust=self.trust)

    def all_doubts(
        self,
        known: Sequence[tuple[str, ScaleFinding]],
        told: Sequence[str],
        notes: Mapping[str, Sequence[Any]],
    ) -> list[str]:
        """Sentences on all scenes; warned of where they are not those told before.

        Args:
            known: What was found at first.
            notes: What was found later, by scene.
        """
        later = [(id, ScaleFinding.from_list(note)) for id, own in notes.items() for note in own]
        texts = self.judge([*known, *later])
        warn_of([text for text in texts if text not in told])
        return texts


def check_scored_memory(predictor: ScenePredictor, scenes: Sequence[Scene]) -> None:
    """Refuse scenes that clearly do not fit into memory to be scored.

    Raises:
        NotEnoughMemoryError: Names a scene, where it is one, with the largest windows that do.
    """
    windows = predictor.windows
    try:
        check_prediction(
            predictor.segmenter,
            windows.crop_size,
            windows.batch_size,
            [(scene.grid.height, scene.grid.width) for scene in scenes],
            find_device(str(predictor.device)),
            precision=windows.precision,
            scored=True,
            further_bytes=CERTAINTY.further_bytes(predictor.segmenter.num_classes),
        )
    except NotEnoughMemoryError as error:
        if len(scenes) > 1:
            raise
        raise NotEnoughMemoryError(f"scene '{scenes[0].id}': {error}") from None


def reference_scenes(dataset: Manifest, split: str, reference: ReferenceName) -> list[Scene]:
    """Scenes of a split with labels to compare maps with.

    Raises:
        SceneNotFoundError: None.
    """
    scenes = [
        scene
        for scene in dataset.scenes(None if split == ANY_SPLIT else split)
        if scene.has_labels or scene.has_reference(reference)
    ]
    if not scenes:
        raise SceneNotFoundError(
            f"'{dataset.path}' has no labelled scenes in split '{split}'; "
            f"splits are {', '.join(dataset.splits) or 'none'}"
        )
    return scenes


def _tell_truth(folder: Path, scenes: Sequence[Scene]) -> None:
    """Say by which labels scenes are scored over which a run learnt from painted polygons."""
    learnt = (learnt_in(folder) or {}).get("classes", {})
    own = [scene.id for scene in scenes if scene.id in learnt]
    if own:
        warn_of([
            f"{len(own)} of the scenes ('{own[0]}' …) were trained on with painted polygons; they "
            "are scored by the labels of the manifest alone"
        ])  # fmt: skip


def _fitting(scenes: Sequence[Scene], patterns: Sequence[str], where: str) -> list[Scene]:
    """Scenes whose id fits one of the patterns.

    Raises:
        SceneNotFoundError: A pattern fits none.
    """
    ids = [scene.id for scene in scenes]
    for pattern in patterns:
        if not fnmatch.filter(ids, pattern):
            known = unknown_name(f"labelled scene in {where}", pattern, ids[:20])
            raise SceneNotFoundError(known + (" …" if len(ids) > 20 else ""))
    return [s for s in scenes if any(fnmatch.fnmatchcase(s.id, p) for p in patterns)]


def results_name(metrics: Mapping[str, Any]) -> str:
    """Return the part of file names that tells these scores apart; "" for the run's own split.

    Args:
        metrics: What `Run.evaluate` returned.
    """
    settings = metrics["settings"]
    if "manifest" not in settings:
        return ""
    path = Path(settings["manifest"] or "")
    words = [path.parent.name if path.stem == "dataset" else path.stem]
    words += [] if metrics["split"] == ANY_SPLIT else [metrics["split"]]
    words += ["scenes"] if settings["scenes"] else []
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "".join(f"_{word}" for word in words if word))


def _short_name(manifest: Path) -> str:
    """Name of a manifest and of its folder: it may lie elsewhere on another machine."""
    return "/".join(manifest.resolve().parts[-2:])


def _digest_settings(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _save_evidence(evidence: Evidence, facts: Mapping[str, Any], path: Path) -> None:
    save_evidence(path, replace(evidence, facts={**evidence.facts, **facts}))


def load(
    run: str | Path, *, merge: bool = False, overrides: Mapping[str, str] | None = None
) -> Run:
    """A trained model from its run folder.

    Args:
        run: The folder, or "hf://owner/name@revision" of one on the hub (`push`), which is fetched.
        merge: True: merge low-rank updates into the weights: a little faster, and equal up to
            rounding.
        overrides: Dotted keys → YAML values that replace settings of the run, such as
            "prediction.overlap".

    Raises:
        ConfigError: No such setting; or an exported file, which `open_model` opens.
        WeightsError: Not a run folder, damaged, or of another version; or the base weights of a
            tuned run are not there, or not the same; or its calibration is damaged; or it cannot be
            fetched, or not as it was pushed.
    """
    refuse_exported(run)
    folder = run_folder(run)
    segmenter, info = load_segmenter(folder, merge=merge)
    config = load_run_config(folder / STORED_CONFIG, overrides)
    digest_of_weights = info.state_sha256 or digest(folder / STATE_FILE)
    calibration = read_calibration(folder, digest_of_weights)
    return Run(folder, segmenter.eval(), info, config, calibration)


def evaluate(
    run: str | Path | Run,
    *,
    split: str | None = None,
    subsets: bool = False,
    manifest: str | Path | None = None,
    scenes: Sequence[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    shard: str | None = None,
    workers: int | WorkerSettings = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a trained model, or that in a run folder, on a split; see `Run.evaluate`."""
    opened = run if isinstance(run, Run) else load(run)
    return opened.evaluate(
        split=split,
        subsets=subsets,
        manifest=manifest,
        scenes=scenes,
        device=device,
        resume=resume,
        shard=shard,
        workers=workers,
        progress=progress,
    )


def predict(
    run: str | Path | TrainedModel,
    out: str | Path,
    *,
    scene: str | None = None,
    rasters: Rasters | None = None,
    device: str = "auto",
    resume: bool = False,
    shard: str | None = None,
    workers: int | WorkerSettings = 1,
    progress: Progress | None = None,
) -> Products:
    """Map a scene with a trained model, or that in a run folder; see `Run.predict`."""
    opened = run if isinstance(run, TrainedModel) else load(run)
    return opened.predict(
        out,
        scene=scene,
        rasters=rasters,
        device=device,
        resume=resume,
        shard=shard,
        workers=workers,
        progress=progress,
    )
