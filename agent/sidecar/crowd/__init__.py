"""What clients may take in connections, size, rate and time."""
