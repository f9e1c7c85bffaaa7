"""A linear classifier on frozen features, or on random crops."""
