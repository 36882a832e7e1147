"""Figures: every metric is a class with update, merge and compute."""
