"""Measurements of ./dev bench: one module for each area, peers beside us in the same run."""
