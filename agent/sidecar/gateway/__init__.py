"""The engines behind the sidecar, and which of them gets a request."""
