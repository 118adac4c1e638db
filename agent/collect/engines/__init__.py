"""Addresses of engines in, their health, readings and series out: one scraper for each, and the watch over all."""
