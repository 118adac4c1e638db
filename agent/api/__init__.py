"""What people and programs ask of the agent over HTTP: the page, Prometheus' API, cost reports, ingest, probes."""
