"""What a run leaves for the eye: curves, a neighbour gallery, the closing table."""

from moco_tf.report.gallery import (
    Album,
    draw_neighbours,
    neighbour_gallery,
    view_grid,
)
from moco_tf.report.history import plot_history
from moco_tf.report.maps import confusion_matrix, heat_map
from moco_tf.report.table import below_untrained, closing_table

__all__ = [
    "Album",
    "below_untrained",
    "closing_table",
    "confusion_matrix",
    "draw_neighbours",
    "heat_map",
    "neighbour_gallery",
    "plot_history",
    "view_grid",
]
