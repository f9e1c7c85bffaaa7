"""Images unlike all others."""
