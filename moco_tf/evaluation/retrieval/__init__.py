"""Whether the images most like one are of its class."""
