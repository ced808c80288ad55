"""Pieces that scripts cut out of the scenes of a data set, under their own names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from terrafuse.layouts.facts import PublishedFacts
from terrafuse.layouts.layout import Layout
from terrafuse.layouts.options import Chosen
from terrafuse.layouts.published import compose, warn
from terrafuse.layouts.tree import Tree

#: Names of folders → split.
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
#: Name of the split that follows the folders.
FOLDERS = "folders"


@dataclass(frozen=True)
class Recipe:
    """A script that cuts scenes into pieces.

    Args:
        name: Value of the option "form".
        layout: Layout of the files it writes.
        images: Kind of files of the first modality.
        labels: Kind of the label files.
        scene: Beginning of a piece's id that is the id of its scene.
        first_code: Code of the first class; the others follow. None: as published.
        void: Codes that belong to no class.
        eroded: Whether the labels have no boundaries between classes.
    """

    name: str
    layout: Layout
    images: str
    labels: str
    scene: re.Pattern[str]
    first_code: int | None = None
    void: tuple[int, ...] = ()
    eroded: bool = False

    def classes(self, facts: PublishedFacts) -> list[dict[str, Any]]:
        """Return the classes with the codes of the recipe."""
        if self.first_code is None:
            return facts.classes
        return [item | {"code": self.first_code + n} for n, item in enumerate(facts.classes)]


def which_form(
    tree: Tree, scenes: Layout, recipes: Sequence[Recipe], form: str | None
) -> Recipe | None:
    """Choose the recipe whose pieces are present and wanted; None: whole scenes.

    Args:
        scenes: Layout of the data set as published.
        form: "scenes" or a recipe's name; None: scenes if there are some, else what is present.
    """
    there = [recipe for recipe in recipes if tree.find(recipe.layout.kind(recipe.images)).files]
    if form is not None:
        return next((recipe for recipe in recipes if recipe.name == form), None)
    whole = any(tree.find(scenes.kind(name)).files for name in scenes.tells)
    if not whole or not there:
        return there[0] if there else None
    names = " or ".join(f"-O form={recipe.name}" for recipe in there)
    warn(f"{scenes.title}: pieces of scenes are present too, and are ignored; to use them: {names}")
    return None


def describe_pieces(
    tree: Tree,
    recipe: Recipe,
    facts: PublishedFacts,
    chosen: Chosen,
    classes: list[dict[str, Any]],
    void: Sequence[int | str],
) -> dict[str, Any]:
    """Compose the manifest of pieces, by default split by the scenes they were cut out of.

    Args:
        recipe: Script that cut them.
        classes: Classes with the codes of the labels.
        void: Codes that belong to no class.

    Raises:
        DataError: Files are missing, damaged or of unequal size, and that is not allowed.
        UnknownNameError: There is no such split.
    """
    places = {
        id: path
        for kind in reversed(recipe.layout.kinds)
        for id, path in tree.find(kind).files.items()
    }
    folders = {id: name for id, path in places.items() if (name := _folder_split(path))}
    scenes = {id: match[0] for id in places if (match := recipe.scene.match(id))}
    if chosen.split == FOLDERS and (folders or not places):
        split = folders
        _tell_of_leaks(recipe, folders, scenes)
    else:
        further = (FOLDERS,) if folders else ()
        tiles = facts.split(chosen.split, further=further)
        split = {id: tiles[scene] for id, scene in scenes.items() if scene in tiles}
        if folders:
            warn(
                f"{recipe.layout.title}: each piece is in the split of the scene it was cut out "
                f"of; to split by folders instead: -O split={FOLDERS}"
            )
    labels = tree.find(recipe.layout.kind(recipe.labels))
    chosen = replace(chosen, others={})  # they list scenes, not pieces
    eroded = labels if recipe.eroded else None
    return compose(tree, recipe.layout, chosen, split, classes, void, labels=labels, eroded=eroded)


def _folder_split(path: PurePosixPath) -> str | None:
    names = [SPLITS[part.lower()] for part in path.parent.parts if part.lower() in SPLITS]
    return names[-1] if names else None


def _tell_of_leaks(recipe: Recipe, folders: Mapping[str, str], scenes: Mapping[str, str]) -> None:
    """Warn of scenes with pieces in several splits: test data adjoin training data."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for id, name in folders.items():
        splits[scenes.get(id, id)].add(name)
    shared = sum(len(names) > 1 for names in splits.values())
    if shared:
        warn(
            f"{recipe.layout.title}: {shared} of {len(splits)} scenes have pieces in several "
            "splits: test pieces adjoin training pieces, so that scores are too optimistic"
        )
