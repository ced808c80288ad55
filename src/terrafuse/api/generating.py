"""Command that generates a second modality from photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.config.base import read_yaml
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.data.encoding import ENCODED_BANDS, EncodingName
from terrafuse.data.inputs import files_read
from terrafuse.data.stored import plain_path
from terrafuse.errors import ConfigError, OutputError, unknown_name
from terrafuse.generate import (
    DepthGenerator,
    Generated,
    Generator,
    MaskGenerator,
    PhotoJob,
    SuperpixelGenerator,
    WindowedGenerator,
    WindowRunner,
    choose_modality,
    describe_modality,
    extend_manifest,
    find_model,
    generate_raster,
    plan_image,
    plan_jobs,
    refuse_other_settings,
)
from terrafuse.modalities import Modality
from terrafuse.progress import Progress
from terrafuse.reports import modality_preview
from terrafuse.stopping import when_stopped
from terrafuse.writing import claimed, claimed_file, refuse_inputs

Kind = Literal["sam", "depth", "superpixels"]
KINDS = ("sam", "depth", "superpixels")
_MANIFESTS = (".yaml", ".yml")


@dataclass(frozen=True)
class GeneratedSet:
    """Result of `generate`.

    Args:
        rasters: One per photo, in the order of the scenes.
        manifest: Manifest extended by the new modality; None for a bare image.
    """

    rasters: tuple[Generated, ...]
    manifest: Path | None
    modality: Modality


def generate(
    source: str | Path,
    *,
    kind: Kind,
    model: str | None = None,
    modality: str | None = None,
    name: str | None = None,
    manifest: str | Path | None = None,
    out: str | Path | None = None,
    encoding: EncodingName | Literal["auto", "none"] = "auto",
    rgb: tuple[int, int, int] | None = None,
    window: int = 1024,
    overlap: int = 128,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    report: Callable[[Generated], None] | None = None,
) -> GeneratedSet:
    """Generate a raster of segments or depth from every photo, and a manifest that names them.

    The same call resumes an interrupted one; finished rasters are kept.

    Args:
        source: A manifest, or one image with red, green and blue.
        kind: "sam": automatic masks of a Segment Anything model. "depth": monocular depth.
            "superpixels": segments of similar colour, without a model.
        model: Folder, or hub id "owner/name"; not for superpixels.
        modality: Modality of the photos; default: the only one with red, green and blue.
        name: Name of the new modality; default: "structure", or "depth".
        manifest: Manifest to write; default: `<stem>_<name>.yaml` beside the given one.
        out: Folder of the rasters; default: `generated/<kind>` beside `source`.
        encoding: Encoding applied on reading; "auto": colours of segments, depth stretched to 0 to
            255, heights unchanged; "none": values unchanged.
        rgb: Numbers of the photo's red, green and blue bands, from 1; default: by names or
            wavelengths.
        window: Side of the model's windows, in pixels.
        overlap: Smallest number of pixels that neighbouring windows share.
        workers: Number of processes, each with its own model.
        options: Options of the kind: fields of `MaskGenerator`, `DepthGenerator` or
            `SuperpixelGenerator`.
        overwrite: True: replace rasters and a manifest made with other settings.
        progress: Called with (windows done, total windows).
        report: Called with each raster as soon as it is finished.

    Raises:
        ConfigError: A setting is invalid.
        DataError: A photo cannot be read, or a modality is not a photo.
        WeightsError: The model does not exist, or is damaged.
        ModelError: The model is made for another task, or fails.
        OutputError: A raster or manifest with other settings exists, a photo would be written
            over, or another process writes there.
    """
    source = plain_path(str(source))
    path = Path(source)
    dataset = load_manifest(path) if path.suffix.lower() in _MANIFESTS else None
    if dataset is None and manifest is not None:
        raise ConfigError(f"'{source}' is an image; only a manifest can be extended to another")
    generator = make_generator(kind, model, dict(options or {}))
    windowed = WindowedGenerator(generator, window, overlap)
    wanted = _find_encoding(generator, encoding)
    name = name or ("depth" if generator.result == "depth" else "structure")
    made, _ = describe_modality(name, windowed, wanted)
    folder = Path(out) if out is not None else path.parent / "generated" / kind
    target = Path(manifest) if manifest else path.with_name(f"{path.stem}_{name}.yaml")
    with ExitStack() as stack:
        stack.enter_context(when_stopped("finished windows are kept; the same command resumes"))
        stack.enter_context(claimed(folder, "generate"))
        new: tuple[Path, dict[str, Any]] | None = None
        if dataset is None:
            jobs = [plan_image(source, rgb, folder)]
            _refuse_others(jobs, windowed, overwrite, [path])
        else:
            photo = choose_modality(dataset, modality, rgb)
            jobs, rasters = plan_jobs(dataset, photo, rgb, folder)
            read = [file for file in files_read(dataset, without=name) if file != dataset.path]
            refuse_inputs([target], read)
            _refuse_others(jobs, windowed, overwrite, [*read, dataset.path])
            stack.enter_context(claimed_file(target, "generate"))
            values = extend_manifest(dataset, photo, name, rasters, windowed, wanted, target.parent)
            _check_manifest(target, values, dataset, overwrite)
            new = target, values
        made_rasters = _run(jobs, windowed, workers, overwrite, progress, report)
        if new is not None:
            write_manifest(new[1], new[0])
    return GeneratedSet(made_rasters, new and new[0], made)


def make_generator(kind: Kind, model: str | None, options: Mapping[str, Any]) -> Generator:
    """Create the generator of a kind.

    Raises:
        ConfigError: A kind or option is unknown, a model is given for superpixels, or none is given
            where one is needed.
        WeightsError: The model does not exist.
        ModelError: The model is made for another task.
    """
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind", kind, KINDS))
    generators: dict[Kind, type[Any]] = {
        "sam": MaskGenerator,
        "depth": DepthGenerator,
        "superpixels": SuperpixelGenerator,
    }
    known = [f.name for f in fields(generators[kind]) if f.init and f.name != "model"]
    for option in options:
        if option not in known:
            raise ConfigError(unknown_name(f"option of --kind {kind}", option, known))
    if kind == "superpixels":
        if model is not None:
            raise ConfigError("superpixels need no model; remove --model, or choose --kind sam")
        return SuperpixelGenerator(**options)
    if model is None:
        raise ConfigError(
            f"--kind {kind} needs --model: a folder, or 'owner/name' on the hub. Without "
            "weights, use --kind superpixels"
        )
    if kind == "sam":
        return MaskGenerator(find_model(model, "mask-generation"), **options)
    return DepthGenerator(find_model(model, "depth-estimation"), **options)


def _find_encoding(generator: Generator, encoding: str) -> EncodingName | None:
    if encoding == "none":
        return None
    if encoding == "auto":
        if generator.result == "segments":
            return "color"
        return "stretch" if generator.aligned else None
    for known in ENCODED_BANDS:
        if known == encoding:
            return known
    raise ConfigError(unknown_name("encoding", encoding, [*ENCODED_BANDS, "auto", "none"]))


def _refuse_others(
    jobs: list[PhotoJob], windowed: WindowedGenerator, overwrite: bool, inputs: Iterable[Path]
) -> None:
    refuse_inputs((path for job in jobs for path in job.files.all), inputs)
    for job in jobs:
        refuse_other_settings(job.files, windowed.settings, overwrite)


def _check_manifest(
    target: Path, values: Mapping[str, Any], given: Manifest, overwrite: bool
) -> None:
    if not target.exists():
        return
    if target.resolve() == given.path.resolve() and not overwrite:
        raise OutputError(
            f"'{target}' is the given manifest; choose another -o to keep it, or replace it "
            "with --overwrite"
        )
    if not overwrite and read_yaml(target) != values:
        raise OutputError(
            f"'{target}' exists with other content; choose another -o, or --overwrite"
        )


def _run(
    jobs: list[PhotoJob],
    windowed: WindowedGenerator,
    workers: int,
    overwrite: bool,
    progress: Progress | None,
    report: Callable[[Generated], None] | None,
) -> tuple[Generated, ...]:
    total = sum(len(windowed.plan(job.photo).windows) for job in jobs)
    done = count(1)

    def advance() -> None:
        number = next(done)
        if progress:
            progress(number, total)

    made, _ = describe_modality("made", windowed, None)
    preview = partial(_show, made)
    rasters = []
    with WindowRunner(windowed.generator, workers) as runner:
        for job in jobs:
            raster = generate_raster(
                job, windowed, runner, preview=preview, overwrite=overwrite, report=advance
            )
            rasters.append(raster)
            job.photo.scene.close()
            if report:
                report(raster)
    return tuple(rasters)


def _show(modality: Modality, image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return modality_preview(image, modality)
