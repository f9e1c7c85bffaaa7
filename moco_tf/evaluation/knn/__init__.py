"""Weighted vote of nearest neighbours."""
