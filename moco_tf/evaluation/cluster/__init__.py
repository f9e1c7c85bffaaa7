"""Groups of like images."""
