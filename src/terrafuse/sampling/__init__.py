"""Scenes → training batches: crops, views, augmentation, shares of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.sampling.augment import describe_augmentation, random_changes
    from terrafuse.sampling.changes import change_batch
    from terrafuse.sampling.dataset import (
        TrainingDataset,
        TrainingLoader,
        training_indexing,
        training_loader,
    )
    from terrafuse.sampling.label_shares import (
        KeptShare,
        LabelUnits,
        label_units,
        labelled_scenes,
        share_labels,
    )
    from terrafuse.sampling.views import Views, ViewsDataset, views_loader
else:  # each with the libraries that it needs, and no others
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.sampling.augment": ("describe_augmentation", "random_changes"),
            "terrafuse.sampling.changes": ("change_batch",),
            "terrafuse.sampling.dataset": (
                "TrainingDataset",
                "TrainingLoader",
                "training_indexing",
                "training_loader",
            ),
            "terrafuse.sampling.label_shares": (
                "KeptShare",
                "LabelUnits",
                "label_units",
                "labelled_scenes",
                "share_labels",
            ),
            "terrafuse.sampling.views": (
                "Views",
                "ViewsDataset",
                "views_loader",
            ),
        },
    )

__all__ = [
    "KeptShare",
    "LabelUnits",
    "TrainingDataset",
    "TrainingLoader",
    "Views",
    "ViewsDataset",
    "change_batch",
    "describe_augmentation",
    "label_units",
    "labelled_scenes",
    "random_changes",
    "share_labels",
    "training_indexing",
    "training_loader",
    "views_loader",
]
