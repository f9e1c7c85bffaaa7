"""The one error of this folder."""

from moco_tf.mistakes import Mistake


class InterchangeError(Mistake):
    """A file or an encoder that cannot travel, told in one sentence."""
