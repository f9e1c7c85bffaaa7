"""Copies of images, exact and near."""
