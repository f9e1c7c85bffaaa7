"""All layers trained on labels, beside the same net from scratch."""
