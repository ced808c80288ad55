"""What can be labelled on a page: polygons of a data set's scenes, or points of a sample."""

from __future__ import annotations

from fastapi import APIRouter

from terrafuse.web.viewer.preparing import Finish
from terrafuse.web.viewer.subjects import Collection


def painting_of(collection: Collection) -> tuple[list[APIRouter], Finish | None]:
    """Routes that take labels, and what adds them to each view.

    Args:
        collection: What the page is of.
    """
    del collection
    return [], None
