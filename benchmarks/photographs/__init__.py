"""Photographs made of aligned faces, of which everything is known, and what is scored by them."""
