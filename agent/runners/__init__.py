"""The pulses between stations: series to alerts, readings and records to the ledger."""
