"""Engines' own metrics code, run from their wheels without a GPU: what it was told in, the page it makes of it out."""
