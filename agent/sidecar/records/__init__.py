"""What was seen of each request → events on disk, and to the agent."""
