"""Images on a plane, like ones close together."""
