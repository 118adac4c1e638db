"""engineroom: the agent that runs on every GPU node, and the sidecar on the request path."""

__version__ = "0.1.0"
