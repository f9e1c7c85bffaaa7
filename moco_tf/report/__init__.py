"""What a run leaves for the eye: curves, a neighbour gallery, the closing table."""

from moco_tf.report.closing import below_untrained, closing_table
from moco_tf.report.gallery import (
    Album,
    draw_neighbours,
    neighbour_gallery,
    view_grid,
)
from moco_tf.report.history import plot_history

__all__ = [
    "Album",
    "below_untrained",
    "closing_table",
    "draw_neighbours",
    "neighbour_gallery",
    "plot_history",
    "view_grid",
]
