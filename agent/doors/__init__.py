"""Who may come in: credentials, certificates and limits of every listener."""
