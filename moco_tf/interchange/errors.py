"""The one error of this folder."""


class InterchangeError(ValueError):
    """A file or an encoder that cannot travel, told in one sentence."""
