"""What a tenant may use, and what happens when it is more."""
