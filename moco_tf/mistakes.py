"""What a user can mend."""


class Mistake(ValueError):
    """Told in one sentence: what was found, what was expected, how to mend it.

    The commands print it and exit with 2; from Python it is an exception as any other.
    """
