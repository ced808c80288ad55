"""Verb `export`: a run as one file that runs without this package, and without torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from terrafuse.api.runs import Run, load, reference_scenes
from terrafuse.data import Scene, typical_pixel_size_m
from terrafuse.errors import ConfigError, DataError, ModelError, TerrafuseError, cut, first_line
from terrafuse.evaluation import evaluate as evaluate_scenes
from terrafuse.exporting import (
    MOST_IN_ONE_FILE,
    OPSET,
    Agreement,
    GraphSegmenter,
    StackedGraph,
    annotate_onnx,
    check_names,
    check_packages,
    check_stackable,
    compare,
    deepness_metadata,
    fit_to_graph,
    halve,
    open_onnx,
    open_program,
    quantize,
    random_images,
    to_program,
    to_stacked_program,
    weight_bytes,
    with_half_weights,
    write_onnx,
    write_program,
)
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.prediction.calibrated import CALIBRATION_JSON
from terrafuse.progress import Progress, Stage
from terrafuse.samples import Sample, collate, round_up
from terrafuse.segmenter import Segmenter
from terrafuse.weights import PortableInfo, check_same_scheme
from terrafuse.weights.portable import OUTPUT, PROBABILITIES, STACKED_INPUT, StoredPrecision
from terrafuse.writing import written_whole

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from terrafuse.exporting.agreement import Images
    from terrafuse.exporting.running import Graph

Format = Literal["onnx", "pt2"]
_FORMATS: tuple[Format, ...] = ("onnx", "pt2")
# Windows of the data on which a graph is compared with its model, in batches; and those by which
# ranges of activations are found.
_COMPARED, _BATCH, _CALIBRATING = 4, 2, 32
# Windows of a scene that are read to find some with data in every modality.
_TRIED = 64
_RECORDING, _WRITING = "recording the graph", "writing the graph"


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: Of the file.
        info: What it says about itself.
        further: Further files that belong to it.
    """

    path: Path
    info: PortableInfo
    further: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in (self.path, *self.further))


def export(
    run: str | Path | Run,
    *,
    format: str = "onnx",
    half: bool = False,
    int8: bool = False,
    stacked: bool = False,
    out: str | Path | None = None,
    licence: str | None = None,
    manifest: str | Path | None = None,
    stage: Stage | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run as one file: a graph with its normalisation inside, and all that is known of it.

    It is compared with the model before it gets its name. One that does not agree is not written.

    Args:
        run: A run, or its folder.
        format: "onnx", or "pt2" of torch.
        half: Store weights as float16; the graph computes in float32.
        int8: Compute convolutions and matrix products in int8, by ONNX Runtime; the loss of score
            on the validation split is measured.
        stacked: One input with the bands of all modalities, as they are stored, and probabilities
            as output: for tools that know one raster, such as QGIS' plug-in Deepness.
        out: The file; default: `model….onnx` or `model….pt2` in the run folder.
        licence: Of the weights; default: that of the base weights, if they have one.
        manifest: Another dataset than the run's, to compare and measure on.
        stage: Called with a title as each stage begins: reading data, recording the graph …
        progress: Called with (windows done, windows in all) while scores are measured.

    Raises:
        ConfigError: Options that do not go together; modalities that cannot be stacked; or no data
            for int8.
        ModelError: The method cannot be recorded as a graph, or the graph does not agree with it.
        MissingDependencyError: Packages for ONNX are not installed.
        OutputError: The file cannot be written.
    """
    precision = _precision(format, half=half, int8=int8, stacked=stacked)
    stage = stage or _silently
    if format == "onnx":
        check_packages()
    opened = run if isinstance(run, Run) else load(run)
    path = Path(out) if out else opened.folder / _name(format, precision, stacked=stacked)
    _check_name(path, format)
    if stacked:
        check_stackable(opened.info.modalities, opened.info.rules)
    windows = WindowSettings.of_run(opened.config)
    model = copy.deepcopy(opened.segmenter).cpu().eval()
    check_names(model)
    stage("reading data to compare on")
    data = _find_data(opened, model, windows, manifest, for_int8=int8)
    info = PortableInfo(
        model=opened.info.to_dict(),
        windows=windows.to_dict(),
        stride=_side(model, windows) if stacked else model.size_unit,
        least_size=_side(model, windows) if stacked else model.least_units * model.size_unit,
        supports_missing=model.supports_missing,
        calibration=_calibration(opened),
        licence=licence or _licence_of_base(opened),
        precision=precision,
        opset=OPSET if format == "onnx" else None,
        stacked=stacked,
    )
    job = _Export(opened, model, data, info, stage, progress)
    return job.write_program(path) if format == "pt2" else job.write_onnx(path)


@dataclass(frozen=True)
class _Data:
    """What a graph is compared and measured on.

    Args:
        words: Where the windows are from.
        batches: Windows, to compare on.
        calibrating: Windows for the ranges of activations, likewise.
        scenes: Labelled ones, to measure scores on.
        split: Of these.
        pixel_size_m: Of them; None: unknown.
        nodata: Per modality the stored value that means no data, if there is one.
    """

    words: str
    batches: list[Images]
    calibrating: list[Images] = field(default_factory=list)
    scenes: Sequence[Scene] = ()
    split: str = ""
    pixel_size_m: float | None = None
    nodata: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Export:
    """One export.

    Args:
        model: On the CPU, in evaluation mode.
        info: What the file says, but for what is found while it is checked.
        stage: Told of each part as it begins.
    """

    run: Run
    model: Segmenter
    data: _Data
    info: PortableInfo
    stage: Stage
    progress: Progress | None

    def write_program(self, path: Path) -> Exported:
        """Write a `.pt2` archive."""
        half = self.info.precision == "float16"
        self.stage(_RECORDING)
        program = to_program(with_half_weights(self.model) if half else self.model)
        with written_whole(path) as (partial,):
            self.stage(_WRITING)
            write_program(program, partial)
            agreement = self._compare(open_program(partial, self.model.modalities))
            info = replace(self.info, checked=agreement.to_dict())
            write_program(program, partial, info)
        return Exported(path, info)

    def write_onnx(self, path: Path) -> Exported:
        """Write an ONNX file."""
        stack = self._stacked() if self.info.stacked else None
        self.stage(_RECORDING)
        with _writing(self.model):
            program = self._program(stack)
        size = weight_bytes(program)
        external = (size // 2 if self.info.precision == "float16" else size) > MOST_IN_ONE_FILE
        further = [path.with_name(f"{path.name}.data")] if external else []
        with written_whole(path, *further) as (partial, *_):
            first = partial.with_name("float32.onnx")
            written = partial if self.info.precision == "float32" else first
            inputs = list(self.info.inputs)
            output = PROBABILITIES if stack else OUTPUT
            self.stage(_WRITING)
            with _writing(self.model):
                write_onnx(program, written, inputs, output)
                self._shrink(first, partial, stack, external=external)
                graph = open_onnx(
                    partial, self.model.modalities, stack.stored_values if stack else None
                )
                checked = self._compare(graph).to_dict()
            if self.info.precision == "int8":
                checked |= self._scores(graph)
            info = replace(self.info, checked=checked)
            annotate_onnx(partial, info, self._for_other_tools())
        return Exported(path, info, tuple(further))

    def _program(self, stack: StackedGraph | None) -> ExportedProgram:
        if stack is None:
            return to_program(self.model)
        return to_stacked_program(stack, self.info.stride)

    def _stacked(self) -> StackedGraph:
        return StackedGraph(self.model, self.run.info.rules, self.data.nodata).eval()

    def _shrink(self, path: Path, out: Path, stack: StackedGraph | None, *, external: bool) -> None:
        """Make the file with smaller weights out of that in float32."""
        if self.info.precision == "float16":
            self.stage("halving the weights")
            halve(path, out, external=external)
        elif self.info.precision == "int8":
            self.stage("finding the ranges for int8")
            inputs = [self._inputs(batch, stack) for batch in self.data.calibrating]
            quantize(path, out, inputs, external=external)

    def _inputs(self, batch: Images, stack: StackedGraph | None) -> dict[str, NDArray[Any]]:
        whole, _ = fit_to_graph(
            batch, self.model.modalities, self.info.stride, self.info.least_size
        )
        if stack:
            whole = {STACKED_INPUT: stack.stored_values(whole)}
        return {name: image.numpy() for name, image in whole.items()}

    def _compare(self, graph: Graph) -> Agreement:
        self.stage("comparing with the model")
        agreement = compare(
            self.model,
            graph,
            self.data.batches,
            self.data.words,
            unit=self.info.stride,
            least=self.info.least_size,
            as_shares=self.info.stacked,
        )
        agreement.check(self.info.precision)
        return agreement

    def _scores(self, graph: Graph) -> dict[str, Any]:
        """Scores of the model and of the graph, on whole scenes."""
        self.stage("measuring scores")
        replaced = GraphSegmenter.of(self.model, graph, self.info.stride, self.info.least_size)
        config = self.run.config.evaluation.model_copy(update={"split": self.data.split})
        score = partial(
            evaluate_scenes,
            scenes=self.data.scenes,
            scheme=self.run.info.scheme,
            config=config,
            windows=WindowSettings.of_run(self.run.config),
            device="cpu",
            boundary=False,
            progress=self.progress,
        )
        full = "+".join(m.name for m in self.model.modalities)
        before, after = (
            score(model)["subsets"][full]["scores"] for model in (self.model, replaced)
        )
        return {
            "split": self.data.split,
            "scenes": len(self.data.scenes),
            "scores_of_model": before,
            "scores_of_graph": after,
        }

    def _for_other_tools(self) -> dict[str, str]:
        if not self.info.stacked:
            return {}
        return deepness_metadata(
            self.run.info,
            size=self.info.stride,
            overlap=int(self.info.windows["overlap"]),
            pixel_size_m=self.data.pixel_size_m,
        )


def _silently(title: str) -> None:
    del title


def _precision(format: str, *, half: bool, int8: bool, stacked: bool) -> StoredPrecision:
    if format not in _FORMATS:
        raise ConfigError(f"format is '{cut(format)}'; allowed are {', '.join(_FORMATS)}")
    if half and int8:
        raise ConfigError("weights are either float16 or int8; give one of --half and --int8")
    if int8 and format == "pt2":
        raise ConfigError(
            "int8 is made by ONNX Runtime, and torch's archives cannot hold it. Use --format onnx, "
            "or --half"
        )
    if stacked and format == "pt2":
        raise ConfigError(
            "a stacked graph is for tools that read ONNX files. Use --format onnx, or leave out "
            "--stacked"
        )
    return "int8" if int8 else "float16" if half else "float32"


def _name(format: str, precision: StoredPrecision, *, stacked: bool) -> str:
    words = ["model", *(["stacked"] if stacked else [])]
    words += [] if precision == "float32" else [precision]
    return f"{'_'.join(words)}.{format}"


def _check_name(path: Path, format: str) -> None:
    if path.suffix.lower() != f".{format}":
        raise ConfigError(
            f"'{path}' does not end in .{format}, by which programs know what it is. Name it "
            f"'{path.with_suffix(f'.{format}').name}'"
        )


def _side(model: Segmenter, windows: WindowSettings) -> int:
    """Side of the windows that a graph is compared on, and of all windows of a stacked one."""
    return round_up(max(windows.crop_size, model.least_units * model.size_unit), model.size_unit)


@contextmanager
def _writing(model: Segmenter) -> Iterator[None]:
    """Say of a graph that cannot be written whose it is.

    Raises:
        ModelError: With what torch, or ONNX Runtime, says.
    """
    try:
        yield
    except (TerrafuseError, OSError, MemoryError):
        raise
    except Exception as error:  # torch's exporters and ONNX Runtime raise many kinds
        raise ModelError(
            f"the graph of {type(model).__name__} cannot be written or run as an ONNX file "
            f"({cut(first_line(error), 300)}). Use --format pt2, or report it"
        ) from error


def _calibration(run: Run) -> dict[str, Any] | None:
    if run.calibration is None:
        return None
    text = (run.folder / CALIBRATION_JSON).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _licence_of_base(run: Run) -> str | None:
    known = [base["licence"] for base in run.info.base_weights if base.get("licence")]
    return "; ".join(dict.fromkeys(known)) or None


def _find_data(
    run: Run,
    model: Segmenter,
    windows: WindowSettings,
    manifest: str | Path | None,
    *,
    for_int8: bool,
) -> _Data:
    """Windows of labelled scenes of the validation split; random ones where there are none.

    Raises:
        ConfigError: There are none, and int8 needs them.
        TerrafuseError: They are of a manifest that was named.
    """
    try:
        named = Path(manifest) if manifest else None
        return _read_data(run, model, windows, named, for_int8=for_int8)
    except TerrafuseError as error:
        if manifest:
            raise
        if for_int8:
            raise ConfigError(
                "int8 needs windows of the run's data, for the range of activations and the loss "
                f"of score, and they cannot be read: {error}. Name a manifest that is there "
                "(--manifest), or export with --half"
            ) from error
    side = _side(model, windows)
    images = random_images(model, run.info.statistics, side, _BATCH)
    words = "random values in the range of the training's, since its data cannot be read"
    nodata = {m.name: _nodata_of(run, None, m.name) for m in model.modalities}
    return _Data(words, [images], nodata=nodata)


def _read_data(
    run: Run, model: Segmenter, windows: WindowSettings, manifest: Path | None, *, for_int8: bool
) -> _Data:
    path = manifest or run.config.data.manifest
    dataset = run.dataset(path)
    check_same_scheme(run.info, dataset.scheme, str(path))
    split = run.config.training.validation_split
    if split not in dataset.splits:
        split = next(iter(dataset.splits), split)
    scenes = reference_scenes(dataset, split, run.config.evaluation.reference)
    found = _windows_of(model, scenes, windows, _COMPARED)
    if not found:
        raise DataError(f"no scene of split '{split}' of '{path}' has a window with data")
    ids = list(dict.fromkeys(sample.scene_id for sample in found))
    calibrating: list[Images] = []
    if for_int8:
        training = [
            scene for own in run.config.data.train_splits if own in dataset.splits
            for scene in dataset.scenes(own)
        ]  # fmt: skip
        own = _windows_of(model, training or scenes, windows, _CALIBRATING) or found
        calibrating = _in_batches(own, 1)
    first = scenes[0]
    return _Data(
        words=f"{len(found)} window{'s' * (len(found) > 1)} of {', '.join(ids)} (split '{split}')",
        batches=_in_batches(found, _BATCH),
        calibrating=calibrating,
        scenes=scenes,
        split=split,
        pixel_size_m=typical_pixel_size_m([first.grid]),
        nodata={m.name: _nodata_of(run, first, m.name) for m in model.modalities},
    )


def _windows_of(
    model: Segmenter, scenes: Sequence[Scene], windows: WindowSettings, most: int
) -> list[Sample]:
    """Windows with data in every modality, from as many of the scenes as can be."""
    predictor = ScenePredictor(model, windows, device="cpu")
    each = -(-most // len(scenes))
    found: list[Sample] = []
    for scene in scenes:
        if len(found) >= most:
            break  # others are not opened
        tried = islice(predictor.lattice(scene), _TRIED)
        samples = (scene.read(window, labels=False) for window in tried)
        whole = (s for s in samples if all(bool(mask.any()) for mask in s.valid.values()))
        found += islice(whole, min(each, most - len(found)))
    return found


def _in_batches(samples: Sequence[Sample], size: int) -> list[Images]:
    """Images of the windows; batches of less where the size of windows changes, and at the end."""
    batches: list[Images] = []
    for _, group in groupby(samples, key=lambda s: (s.window.height, s.window.width)):
        alike = list(group)
        batches += [
            collate(alike[start : start + size]).images for start in range(0, len(alike), size)
        ]
    return batches


def _nodata_of(run: Run, scene: Scene | None, name: str) -> float | None:
    """Stored value of a modality that means no data: of the manifest, else of a scene's files."""
    given = run.info.rules.get(name, {}).get("nodata")
    if given is not None or scene is None:
        return None if given is None else float(given)
    tags = {tag for file in scene.files.get(name, ()) for tag in file.nodata}
    return tags.pop() if len(tags) == 1 else None
