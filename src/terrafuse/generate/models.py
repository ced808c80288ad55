"""Vision foundation models from a folder or the hub, through the pipelines of transformers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from terrafuse.errors import (
    ConfigError,
    MissingDependencyError,
    ModelError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    first_line,
)
from terrafuse.extras import from_extra
from terrafuse.prediction import find_device
from terrafuse.weights import digest, hub_or_cache, why_not

Task = Literal["mask-generation", "depth-estimation"]
Precision = Literal["float32", "float16", "bfloat16"]

_NEEDED: dict[Task, str] = {"mask-generation": "masks", "depth-estimation": "depth"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_WEIGHTS = ("*.safetensors", "*.bin")
_DIGESTED = ("config.json", "processor_config.json", "preprocessor_config.json", *_WEIGHTS)
_FETCH = "Fetch it where there is a network (hf download {0} --local-dir FOLDER), and give FOLDER"


@dataclass(frozen=True)
class Model:
    """A model that exists and suits its task, not yet loaded.

    Args:
        source: Folder or hub id to load it from.
        name: Name of the folder, or hub id.
        revision: Commit on the hub; for a folder, the SHA-256 of its files.
        architecture: Model type in transformers ("sam2").
        licence: Licence on its model card; "unknown" without one.
        task: Pipeline task of transformers.
        metric: True if its settings say that its depth is in metres.
    """

    source: str
    name: str
    revision: str
    architecture: str
    licence: str
    task: Task
    metric: bool = False

    def describe(self) -> dict[str, str]:
        """Return all that its results depend on."""
        return {"name": self.name, "revision": self.revision, "architecture": self.architecture}


def find_model(source: str, task: Task) -> Model:
    """Check that a model exists and suits the task, without loading its weights.

    Args:
        source: A folder, or a hub id "owner/name" or "owner/name@revision".
        task: Pipeline task of transformers.

    Raises:
        WeightsNotFoundError: No such folder, no weights in it, or the hub cannot be reached.
        ModelError: The model is made for another task.
        MissingDependencyError: transformers is not installed.
    """
    folder = Path(source).expanduser()
    wanted, _, revision = source.partition("@")
    if folder.is_dir():
        _check_folder(folder)
        wanted, revision = str(folder), ""
    elif not _HUB_ID.fullmatch(wanted):
        raise WeightsNotFoundError(
            f"there is no folder '{source}', and a model on the hub is named 'owner/name'. Give "
            "either; the folder must hold config.json, *.safetensors and a processor's .json"
        )
    config = _read_config(wanted, revision or None)
    architecture = str(config.model_type)
    _check_task(source, architecture, task)
    commit = getattr(config, "_commit_hash", None) or revision
    return Model(
        source=wanted,
        name=folder.resolve().name if folder.is_dir() else wanted,
        revision=_digest_folder(folder) if folder.is_dir() else commit,
        architecture=architecture,
        licence=_read_licence(wanted, commit, folder.is_dir()),
        task=task,
        metric=getattr(config, "depth_estimation_type", "") == "metric",
    )


def load_pipeline(model: Model, *, precision: Precision, device: str) -> Any:
    """Load the transformers pipeline with all weights of the model.

    Raises:
        WeightsMismatchError: Weights are missing.
        WeightsError: Weights are damaged, or the processor is missing.
        MissingDependencyError: A package that the model needs is missing.
        ConfigError: The device does not exist.
    """
    import transformers

    auto = (
        transformers.AutoModelForMaskGeneration
        if model.task == "mask-generation"
        else transformers.AutoModelForDepthEstimation
    )
    place = find_device(device)
    local = Path(model.source).is_dir()
    options = {"revision": None if local else model.revision or None, "trust_remote_code": False}
    with _quiet(), _explained(model.source, local):
        network, report = auto.from_pretrained(
            model.source, dtype=getattr(torch, precision), output_loading_info=True, **options
        )
        _check_complete(model, report)
        network.register_forward_hook(_to_float)
        processor = transformers.AutoImageProcessor.from_pretrained(model.source, **options)
        return transformers.pipeline(
            model.task, model=network.eval(), image_processor=processor, device=place
        )


def run_model(pipeline: Any, picture: NDArray[np.uint8], **options: Any) -> Any:
    """Run a pipeline on a picture (h, w, 3).

    Raises:
        ModelError: There is too little memory.
    """
    try:
        # Constant depth divides by zero in the pipeline's picture, which is not used here.
        with torch.inference_mode(), np.errstate(invalid="ignore", divide="ignore"):
            return pipeline(Image.fromarray(picture), **options)
    except torch.OutOfMemoryError as error:
        # Of depth, a window is a batch.
        fewer = ", or fewer --points-per-batch" if pipeline.task == "mask-generation" else ""
        raise ModelError(
            f"the device has too little memory ({first_line(error)}). Use a smaller --window{fewer}"
        ) from None


def model_note(model: Model, *, device: str, precision: Precision) -> dict[str, Any]:
    """Return facts about a model and its run, for the record."""
    import transformers

    return {
        "licence": model.licence,
        "device": find_device(device).type,
        "precision": precision,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise WeightsNotFoundError(
            f"'{folder}' is not a model folder: it holds no config.json. Give the folder that "
            "save_pretrained or hf download wrote"
        )
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise WeightsNotFoundError(
            f"'{folder}' has no weights (*.safetensors). The download was interrupted or fetched "
            "pointers only; fetch it again"
        )


def _read_config(source: str, revision: str | None) -> Any:
    with from_extra("generate", f"model '{source}'"):
        import transformers

    with _quiet(), _explained(source, Path(source).is_dir()):
        return transformers.AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )


def _check_task(source: str, architecture: str, task: Task) -> None:
    from transformers.models.auto import modeling_auto

    known = {
        "mask-generation": modeling_auto.MODEL_FOR_MASK_GENERATION_MAPPING_NAMES,
        "depth-estimation": modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES,
    }
    if architecture in known[task]:
        return
    other = next((name for name, models in known.items() if architecture in models), None)
    kind = {"mask-generation": "sam", "depth-estimation": "depth"}
    hint = f". Did you mean --kind {kind[other]}?" if other else ""
    raise ModelError(
        f"model '{source}' is a '{architecture}', which returns no {_NEEDED[task]}; allowed are "
        f"{', '.join(sorted(known[task]))}{hint}"
    )


def _to_float(_network: Any, _inputs: Any, output: Any) -> Any:
    """Convert half-precision outputs for pipelines that expect single precision."""
    for key, value in output.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            output[key] = value.float()
    return output


def _check_complete(model: Model, report: Any) -> None:
    missing = sorted(report.get("missing_keys") or ())
    mismatched = [str(item[0]) for item in report.get("mismatched_keys") or ()]
    if missing or mismatched:
        names = [*missing, *mismatched]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise WeightsMismatchError(
            f"model '{model.source}' lacks weights that a '{model.architecture}' for "
            f"{_NEEDED[model.task]} needs: {', '.join(names[:4])}{more}. It may be a backbone "
            "without its head: choose a model with it"
        )


def _digest_folder(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted({path for pattern in _DIGESTED for path in folder.glob(pattern)}):
        found.update(f"{path.name} {digest(path)}\n".encode())
    return found.hexdigest()


def _read_licence(source: str, revision: str, local: bool) -> str:
    path: str | Path | None = Path(source) / "README.md"
    if not local:
        from transformers.utils import cached_file

        try:
            with hub_or_cache():
                path = cached_file(source, "README.md", revision=revision or None)
        except Exception:  # no card, or no network: not worth stopping for
            path = None
    if path is None or not Path(path).is_file():
        return "unknown"
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = dict(
        re.findall(r"^(license|license_name): *['\"]?([^'\"\n]+)", head[1] if head else "", re.M)
    )
    named = found.get("license_name") if found.get("license") == "other" else None
    return str(named or found.get("license") or "unknown").strip()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers: no progress bars, no advice."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _explained(source: str, local: bool) -> Iterator[None]:
    """Translate loading failures of several libraries into terrafuse errors."""
    try:
        with nullcontext() if local else hub_or_cache():
            yield
    except (WeightsError, ModelError, ConfigError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"model '{source}' needs a package that is not installed: {first_line(error)}"
        ) from error
    except Exception as error:
        reason = first_line(error)
        if local:
            raise WeightsError(
                f"model '{source}' cannot be loaded: {reason}. Files may be missing or truncated: "
                "fetch it again"
            ) from error
        raise WeightsNotFoundError(
            f"model '{source}' is not on this machine and cannot be fetched "
            f"({why_not(error, source.partition('@')[0])}). " + _FETCH.format(source)
        ) from error
