"""Figures and self-contained HTML pages from results."""

from terrafuse.reports.figures import (
    confusion_figure,
    curves_figure,
    sample_panel,
    score_bars,
)
from terrafuse.reports.html import Report
from terrafuse.reports.previews import class_map_image, confidence_image, modality_preview
from terrafuse.reports.run import run_report

__all__ = [
    "Report",
    "class_map_image",
    "confidence_image",
    "confusion_figure",
    "curves_figure",
    "modality_preview",
    "run_report",
    "sample_panel",
    "score_bars",
]
