"""What can be labelled on a page: polygons of a data set's scenes, or points of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fastapi import APIRouter

from terrafuse.data import Manifest
from terrafuse.web.viewer.labels import (
    labelling_of,
    labels_router,
    sample_router,
    sampling_of,
)
from terrafuse.web.viewer.preparing import Finish
from terrafuse.web.viewer.scenes import Subject
from terrafuse.web.viewer.shown import Shown
from terrafuse.web.viewer.subjects import Collection


def painting_of(collection: Collection) -> tuple[list[APIRouter], Finish]:
    """Routes that take labels, and what adds them to each view.

    Args:
        collection: What the page is of.

    Raises:
        DataError: The sample cannot be read.
    """
    sample = collection.sample
    if sample is not None:
        (id,) = collection.subjects
        return [_prefixed(f"/v/{id}", sample_router(sample))], _adding_sample(sample)
    groups: dict[Path, tuple[Manifest, dict[str, str]]] = {}
    hrefs = {}
    for id, subject in collection.subjects.items():
        if subject.manifest is None:
            continue
        place = subject.manifest.path.resolve()
        groups.setdefault(place, (subject.manifest, {}))[1][id] = subject.scene_id
        hrefs[id] = f"../../paint/{list(groups).index(place)}/{id}/labels"
    routers = [
        _prefixed(f"/paint/{n}", labels_router(manifest, ids))
        for n, (manifest, ids) in enumerate(groups.values())
    ]
    return routers, _adding_labelling(hrefs)


def _prefixed(prefix: str, router: APIRouter) -> APIRouter:
    found = APIRouter(prefix=prefix)
    found.include_router(router)
    return found


def _adding_labelling(hrefs: Mapping[str, str]) -> Finish:
    """What adds what can be painted over each scene of a manifest.

    Args:
        hrefs: Scene → address of its polygons, from its view.
    """

    def add(subject: Subject, shown: Shown) -> Shown:
        if subject.manifest is None:
            return shown
        labelling = labelling_of(
            subject.manifest,
            subject.scene_id,
            href=hrefs[subject.id],
            train_splits=subject.train_splits,
        )
        return replace(shown, view=shown.view.model_copy(update={"labelling": labelling}))

    return add


def _adding_sample(path: Path) -> Finish:
    """What adds the points of a sample to the view of its map."""

    def add(subject: Subject, shown: Shown) -> Shown:
        del subject
        sampling, places = sampling_of(path, grid=shown.grid)
        listed = (places, *shown.view.places)
        view = shown.view.model_copy(update={"sampling": sampling, "places": listed})
        return replace(shown, view=view)

    return add
