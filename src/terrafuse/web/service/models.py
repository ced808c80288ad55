"""Served models: their names, and the card of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from terrafuse.config import load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.errors import ConfigError, cut, unknown_name
from terrafuse.prediction import WindowSettings
from terrafuse.web.refusals import Refusal
from terrafuse.weights import RunInfo, read_run_info
from terrafuse.weights.onnx_file import names_onnx, read_onnx
from terrafuse.weights.portable import PortableInfo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class ServedModel:
    """A model, as far as its description goes: nothing is loaded.

    Args:
        name: In requests.
        path: Run folder or ONNX file.
        info: Content of its `model.json`.
        portable: Of an ONNX file.
    """

    name: str
    path: Path
    info: RunInfo
    portable: PortableInfo | None = None

    @cached_property
    def supports_missing(self) -> bool:
        """Whether it maps without one of its modalities."""
        if self.portable is not None:
            return self.portable.supports_missing
        from terrafuse.methods import find_method  # torch takes seconds to import

        return find_method(self.info.method).supports_missing

    def windows(self, *, crop_size: int | None, overlap: int | None) -> WindowSettings:
        """Return the settings of windows that a worker will map with.

        Args:
            crop_size: Side of the windows in scene pixels; None, here and below: the model's.
            overlap: Scene pixels shared by neighbouring windows.

        Raises:
            ConfigError: The values contradict each other.
            WeightsError: The model does not say its own any more.
        """
        if self.portable is not None:
            own = WindowSettings.of_export(self.portable, str(self.path))
            return own.changed(crop_size=crop_size, overlap=overlap)
        config = load_run_config(self.path / STORED_CONFIG)
        return WindowSettings.of_run(config, crop_size=crop_size, overlap=overlap)

    @property
    def card(self) -> dict[str, Any]:
        """What people need to know before they map with it; no path of the server."""
        info = self.info
        return {
            "name": self.name,
            "method": info.method,
            "modalities": [
                {**modality.to_dict(), "statistics": info.statistics[modality.name].to_dict()}
                for modality in info.modalities
            ],
            **info.scheme.to_dict(),
            "crop_size": info.crop_size,
            "overlap": info.overlap,
            "scores": info.scores,
            "base_weights": list(info.base_weights),
            "licence": self._licence,
            "total_parameters": info.total_parameters,
            "terrafuse_version": info.version,
        }

    @property
    def _licence(self) -> str | None:
        found = {
            str(weights["licence"]) for weights in self.info.base_weights if "licence" in weights
        }
        return ", ".join(sorted(found)) or None


class ModelShelf:
    """The models of a service by name.

    Args:
        given: Run folders or ONNX files, or NAME=PATH.

    Raises:
        ConfigError: None, two of one name, or a name that addresses cannot have.
        WeightsError: One is no model, damaged, or of another version.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self.models: dict[str, ServedModel] = {}
        if not given:
            raise ConfigError("nothing to serve: give one run folder or more")
        for one in given:
            model = _open(one)
            if model.name in self.models:
                raise ConfigError(
                    f"two models are named '{model.name}': '{self.models[model.name].path}' and "
                    f"'{model.path}'. Give one of them a name: NAME={model.path}"
                )
            self.models[model.name] = model

    def __iter__(self) -> Iterator[ServedModel]:
        """Return the models."""
        return iter(self.models.values())

    @property
    def places(self) -> Mapping[str, str]:
        """Absolute path of each model."""
        return {name: str(model.path.absolute()) for name, model in self.models.items()}

    def find(self, name: str | None, status: int = 422) -> ServedModel:
        """A model; None: the only one.

        Raises:
            Refusal: There is none of that name, or several and no name was given.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None:
            raise Refusal(422, f"'model' is missing; there are {', '.join(sorted(self.models))}")
        if name not in self.models:
            raise Refusal(status, unknown_name("model", name, self.models))
        return self.models[name]


def _open(given: str) -> ServedModel:
    name, separator, rest = given.partition("=")
    is_named = bool(separator) and _NAME.fullmatch(name) is not None and not Path(given).exists()
    path = Path(rest if is_named else given)
    portable = PortableInfo.of_onnx(read_onnx(path)) if names_onnx(path) else None
    info = read_run_info(path) if portable is None else portable.run
    own = name if is_named else (path.stem if portable else path.resolve().name)
    if not _NAME.fullmatch(own):
        raise ConfigError(
            f"'{cut(own)}' cannot be a model's name in addresses: letters, digits and . _ - are "
            f"allowed. Give another one: NAME={path}"
        )
    return ServedModel(own, path, info, portable)
