"""Figures and self-contained HTML pages from results."""

from terrafuse.reports.confidence import reliability_figure
from terrafuse.reports.contact import contact_sheet
from terrafuse.reports.doctor_page import FindingView, write_doctor_page
from terrafuse.reports.efficiency import SharePoint, efficiency_figure
from terrafuse.reports.figures import (
    confusion_figure,
    curves_figure,
    sample_panel,
    score_bars,
)
from terrafuse.reports.html import Report
from terrafuse.reports.previews import (
    class_map_image,
    confidence_image,
    error_image,
    modality_preview,
)
from terrafuse.reports.run import run_report
from terrafuse.reports.sections import Section
from terrafuse.reports.seeds import ScoreRow, seeds_figure
from terrafuse.reports.synergy_figures import synergy_figures, write_synergy_figures
from terrafuse.reports.synergy_tables import (
    synergy_sentences,
    synergy_tables,
)
from terrafuse.reports.tables import Table

__all__ = [
    "FindingView",
    "Report",
    "ScoreRow",
    "Section",
    "SharePoint",
    "Table",
    "class_map_image",
    "confidence_image",
    "confusion_figure",
    "contact_sheet",
    "curves_figure",
    "efficiency_figure",
    "error_image",
    "modality_preview",
    "reliability_figure",
    "run_report",
    "sample_panel",
    "score_bars",
    "seeds_figure",
    "synergy_figures",
    "synergy_sentences",
    "synergy_tables",
    "write_doctor_page",
    "write_synergy_figures",
]
