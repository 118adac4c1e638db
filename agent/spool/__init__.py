"""The durable queue that records, logs, spans and rollups share."""
