"""A linear classifier of a few labelled images a class, drawn many times."""
