"""What an evaluation shows to people: figures, sample grids and one page that needs nothing else."""

from pathlib import Path

from stages.report.collect import collect, gallery, row
from stages.report.figures import quality_against_calls, score_against_distance
from stages.report.page import page
from stages.report.pictures import samples
from stages.report.plots import write_tables
from stages.report.records import Gallery, Row, Study
from stages.report.theme import png

__all__ = ["Gallery", "Row", "Study", "collect", "gallery", "row", "write"]

FIGURES = {"score_distance": score_against_distance, "quality_nfe": quality_against_calls, "samples": samples}


def write(study: Study, out: Path) -> None:
    """Write tables for plots, figures/*.png and report.html to `out`."""
    write_tables(study, out)
    figures = {name: draw(study) for name, draw in FIGURES.items() if draw is not score_against_distance or study.plane}
    (out / "figures").mkdir()
    for name, figure in figures.items():
        (out / "figures" / f"{name}.png").write_bytes(png(figure))
    (out / "report.html").write_text(page(study, figures), encoding="utf-8")
