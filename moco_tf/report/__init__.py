"""What a run leaves for the eye: curves, maps, views, the closing table."""

from moco_tf.report.history import plot_history
from moco_tf.report.maps import confusion_matrix, heat_map
from moco_tf.report.table import below_untrained, closing_table
from moco_tf.report.views import view_grid

__all__ = [
    "below_untrained",
    "closing_table",
    "confusion_matrix",
    "heat_map",
    "plot_history",
    "view_grid",
]
