"""Nearest pictures by what an encoder sees in them."""
