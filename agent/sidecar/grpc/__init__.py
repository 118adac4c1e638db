"""gRPC calls of clients → the engine and back, over HTTP/2, each one recorded."""
