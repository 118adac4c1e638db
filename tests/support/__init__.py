"""Helpers that tests share: real components, captures, small servers."""
