"""Quotas: policies, windows, reservations, and the arithmetic of leases on both sides."""
