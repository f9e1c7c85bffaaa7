"""KerasCV's RetinaNet on the encoder, and its average precision."""
