"""Asking engines for usage in streams, and taking it out again."""
