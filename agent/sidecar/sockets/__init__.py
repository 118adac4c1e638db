"""Where the sidecar listens, and how it connects."""
