"""What the service takes and answers, as its OpenAPI document shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

JobState = Literal["queued", "running", "cancelling", "cancelled", "failed", "done"]
#: States that a job does not leave by itself.
ENDED: tuple[JobState, ...] = ("cancelled", "failed", "done")
#: PostgreSQL keeps no text with U+0000.
WITHOUT_NUL = r"^[^\x00]*$"


class Message(BaseModel):
    """A message; keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobRequest(Message):
    """A map to be made.

    Args:
        model: Name of a served model; may be left out where there is one.
        rasters: Modality → rasters: paths under the allowed roots, `upload:ID`, or http(s)
            addresses where those are allowed.
        item: Address of a STAC item instead, where addresses are allowed.
        products: As `predict --products`.
        outputs: What is made of the map beside the COGs.
        tta: Views, as `predict --tta`.
        crop_size: Of windows; default: the model's.
        overlap: Of windows.
        priority: Higher first, -10 to 10; positive ones need a token that may.
        title: Free text.
        convert: Modality → how its values become those of the training, as `predict --convert`.
        trust_values: Map values of another scale as they are.
    """

    model: str | None = Field(None, max_length=200)
    rasters: dict[str, str | list[str]] = Field(default_factory=dict, max_length=32)
    item: str | None = Field(None, max_length=2000)
    products: list[str] = Field(default=["class_map", "confidence"], min_length=1, max_length=32)
    outputs: list[Literal["polygons", "areas", "preview"]] = ["preview"]
    tta: list[str] = Field(default=[], max_length=8)
    crop_size: int | None = Field(None, ge=1, le=65536)
    overlap: int | None = Field(None, ge=0, le=65536)
    priority: int = Field(0, ge=-10, le=10)
    title: str = Field("", max_length=200, pattern=WITHOUT_NUL)
    convert: dict[str, str] = Field(default_factory=dict, max_length=32)
    trust_values: bool = False


class ResultFile(Message):
    """A file of a finished job, relative to the job's `results`."""

    name: str
    bytes: int
    media_type: str


class Job(Message):
    """A job as it stands.

    Args:
        user: Name of the token that asked for it; "local" without tokens.
        done: Work units that are kept.
        total: Work units; None: not known yet.
        attempts: How often it was begun.
        error: What went wrong, one message.
        results: Files, once it is done.
        view: Address of the page that shows the map, once it is done.
        tilejson: Address for web maps, once it is done, of maps with CRS.
    """

    id: str
    model: str
    title: str
    user: str
    state: JobState
    priority: int
    created: datetime
    started: datetime | None
    ended: datetime | None
    done: int
    total: int | None
    attempts: int
    worker: str | None
    error: str | None
    request: JobRequest
    results: tuple[ResultFile, ...] = ()
    view: str | None = None
    tilejson: str | None = None


class JobList(Message):
    """A page of jobs, newest first; `next` is the cursor of the following ones."""

    jobs: tuple[Job, ...]
    next: str | None = None


class Fault(Message):
    """Every refusal: the product's own message, with what is allowed and what to do."""

    error: str


class Upload(Message):
    """A raster that was sent; `upload:ID` names it in requests."""

    id: str
    name: str
    bytes: int
    sha256: str
