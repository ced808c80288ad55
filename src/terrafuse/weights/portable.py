"""What an exported model says about itself: all that mapping with it needs, without torch.

ONNX files hold it as JSON in `metadata_props["terrafuse"]`, torch's `.pt2` archives in the extra
file `terrafuse.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from terrafuse.errors import WeightsError, WeightsMismatchError, cut
from terrafuse.modalities import Modality
from terrafuse.version import VERSION
from terrafuse.weights.onnx_file import OnnxFile
from terrafuse.weights.run_info import FORMAT_VERSION, RunInfo, fault_of, null_for_nan

PORTABLE_FORMAT = 1
#: Key of an ONNX file's metadata.
METADATA_KEY = "terrafuse"
#: Extra file of a `.pt2` archive.
EXTRA_FILE = "terrafuse.json"
#: Name of the one input of a graph whose modalities are stacked, and of the output of all others.
STACKED_INPUT = "image"
OUTPUT = "logits"
#: Likewise of a graph whose modalities are stacked.
PROBABILITIES = "probabilities"

StoredPrecision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class PortableInfo:
    """Description of an exported model.

    Args:
        model: Content of `model.json`.
        windows: Settings of windows that the run maps with, `WindowSettings.to_dict()`.
        stride: Heights and widths of the scene grid must be multiples of it; it is a whole number
            of pixels of every modality.
        supports_missing: Whether a modality may be without data (all NaN).
        calibration: Content of `calibration.json`; None: the confidence is not calibrated.
        licence: Of the weights; None: unknown.
        precision: How weights are stored; inputs and logits are float32 in any case.
        opset: Version of the ONNX operators; None in a `.pt2` archive.
        stacked: Whether the graph has one input with the bands of all modalities, in their order,
            instead of one input each.
        least_size: Smallest height and width of the scene grid.
        terrafuse_version: What exported it.
        checked: What the comparison with torch found when it was exported.
    """

    model: Mapping[str, Any]
    windows: Mapping[str, Any]
    stride: int
    supports_missing: bool
    calibration: Mapping[str, Any] | None = None
    licence: str | None = None
    precision: StoredPrecision = "float32"
    opset: int | None = None
    stacked: bool = False
    least_size: int = 1
    terrafuse_version: str = VERSION
    checked: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def run(self) -> RunInfo:
        """The run that was exported.

        Raises:
            LookupError: A key of `model` is missing.
            TypeError: A value is of another type.
            ValueError: A value is not allowed.
        """
        return RunInfo.from_dict(self.model)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of the inputs, in order."""
        return self.run.modalities

    @property
    def inputs(self) -> dict[str, int]:
        """Name of each input → its bands."""
        bands = {modality.name: len(modality.bands) for modality in self.modalities}
        return {STACKED_INPUT: sum(bands.values())} if self.stacked else bands

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        plain: dict[str, Any] = null_for_nan({"format": PORTABLE_FORMAT, **values})
        return plain

    def to_json(self) -> str:
        """Return the text that exported files hold."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, default=str)

    @classmethod
    def of_onnx(cls, file: OnnxFile) -> PortableInfo:
        """Take it from an ONNX file; as `from_json` otherwise."""
        return cls.from_json(file.metadata.get(METADATA_KEY), str(file.path))

    @classmethod
    def from_json(cls, text: str | bytes | None, where: str) -> PortableInfo:
        """Inverse of `to_json`.

        Args:
            text: What stands in the file; None: nothing does.
            where: Names the file in messages.

        Raises:
            WeightsError: The file is not ours, or damaged.
            WeightsMismatchError: A newer terrafuse wrote it.
        """
        if text is None:
            raise WeightsError(
                f"'{where}' does not say what it takes and returns: 'terrafuse export' did not "
                "write it, or another program dropped its metadata. Export the run again "
                "(terrafuse export RUN --format onnx)"
            )
        values = _read(text, where)
        try:
            _check(values)
            known = {one.name for one in fields(cls)}
            info = cls(**{key: value for key, value in values.items() if key in known})
            _ = info.run
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise damaged(where, fault_of(error)) from None
        return info


# Kinds of the values that every file holds.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "windows": dict,
    "stride": int,
    "supports_missing": bool,
    "calibration": (dict, type(None)),
    "licence": (str, type(None)),
    "precision": str,
    "opset": (int, type(None)),
    "terrafuse_version": str,
    "checked": dict,
}
#: Kinds of those that a file may leave out.
_OPTIONAL: dict[str, type | tuple[type, ...]] = {"stacked": bool, "least_size": int}


def _read(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:  # also of bytes that are no text
        raise damaged(where, str(error)) from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise damaged(where, "no 'format'")
    model = values.get("model")
    stored = model.get("format_version") if isinstance(model, dict) else None
    newer = isinstance(stored, int) and stored > FORMAT_VERSION
    if values["format"] > PORTABLE_FORMAT or newer:
        raise WeightsMismatchError(
            f"'{where}' has format {cut(values['format'])} of a model of format {cut(stored)}, "
            f"written by terrafuse {cut(values.get('terrafuse_version', '(unknown)'))}; this is "
            f"terrafuse {VERSION}, which reads {PORTABLE_FORMAT} and {FORMAT_VERSION}. Use the "
            "terrafuse that wrote it, or export the run again with this one"
        )
    return values


def _check(values: Mapping[str, Any]) -> None:
    optional = {key: kind for key, kind in _OPTIONAL.items() if key in values}
    for key, kind in (_KINDS | optional).items():
        value = values[key]
        # A bool is an int, but no stride.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"'{key}' is of type {type(value).__name__}")
    for key in ("stride", "least_size"):
        if values.get(key, 1) < 1:
            raise ValueError(f"'{key}' is {values[key]}")
    if values["precision"] not in get_args(StoredPrecision):
        raise ValueError(f"'precision' is '{values['precision']}'")


def damaged(where: str, reason: str) -> WeightsError:
    """Return the error of a description that cannot be used.

    Args:
        where: Names the file.
        reason: Says what is wrong with it.
    """
    return WeightsError(
        f"what '{where}' says about itself is damaged: {cut(reason, 600)}. Copy the file again, or "
        "export the run again (terrafuse export RUN)"
    )
