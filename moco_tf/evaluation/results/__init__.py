"""What protocols write, and commands on what was written."""
