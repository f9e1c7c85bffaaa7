"""A linear classifier of each pixel on the frozen encoder's last feature map."""
