"""/proc of this machine in, processes and the engines among them out."""
