"""What leaves the node; one file per destination. Imports agent.core only."""
