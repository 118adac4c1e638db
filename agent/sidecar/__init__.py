"""The request path: bytes from clients to one engine and back untouched, and a record of every request."""
