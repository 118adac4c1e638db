"""Asks kubelet, its files and /proc who holds and who uses each GPU slot."""
