"""Bytes of requests and responses → tokens, instants, outcomes."""
