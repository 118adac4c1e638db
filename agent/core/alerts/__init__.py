"""Alerts: rule files in, states of alerts out."""
