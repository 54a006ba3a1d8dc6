"""Metrics: how good restored pictures and predicted masks are."""
