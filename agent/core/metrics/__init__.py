"""Samples: what a metrics page says, what we remember of it, and how it is asked."""
