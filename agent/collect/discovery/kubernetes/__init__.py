"""The API server in, the pods of this node and the engines in them out."""
