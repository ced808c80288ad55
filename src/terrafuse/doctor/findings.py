"""Findings of the doctor, and the refusal of data that cannot be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from terrafuse.errors import DataError
from terrafuse.samples import Window

Severity = Literal["error", "warning", "note"]

_MOST_LISTED = 10


@dataclass(frozen=True)
class Finding:
    """A fact about a data set that its owner should know.

    Args:
        severity: error: training would fail or learn nonsense; warning: probably a mistake; note.
        code: Short name of the kind of finding, for programs.
        message: What is wrong, where, and what was found.
        scene: Id of the scene; None where it concerns all.
        path: File concerned, if it is a single one.
        remedy: What to do; empty where the message says it.
        modality: Its name, or "labels", where the finding is about one.
        window: Where in the scene, in scene pixels.
        fix: What would mend it in `dataset.yaml`: dotted key → value; of scenes, "scenes" → their
            keys by id. Applied to a copy only (`data check --fix`).
    """

    severity: Severity
    code: str
    message: str
    scene: str | None = None
    path: Path | None = None
    remedy: str = ""
    modality: str | None = None
    window: Window | None = None
    fix: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        path = None if self.path is None else str(self.path)
        window = None if self.window is None else list(vars(self.window).values())
        return {**vars(self), "path": path, "window": window, "fix": dict(self.fix)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Inverse of `to_dict`."""
        path, window = values["path"], values["window"]
        return cls(
            **{
                **values,
                "path": None if path is None else Path(path),
                "window": None if window is None else Window(*window),
            }
        )

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.remedy}".strip()


def refuse_untrainable(findings: Sequence[Finding]) -> None:
    """Raise if there is an error among the findings.

    Raises:
        DataError: Lists up to ten of them.
    """
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if len(errors) == 1:
        raise DataError(errors[0])
    if errors:
        more = len(errors) - _MOST_LISTED
        listed = [f"  {error}" for error in errors[:_MOST_LISTED]]
        rest = [f"  … and {more} more (terrafuse data check lists all)"] if more > 0 else []
        raise DataError(
            "\n".join([f"the data cannot be trained on, {len(errors)} errors:", *listed, *rest])
        )
