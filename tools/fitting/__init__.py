"""Recipes fitted to low-quality pictures: measure these, then choose ranges that give the same."""
