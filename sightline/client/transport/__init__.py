"""How calls reach the services: addresses, TLS and tokens, channels, retries, and why a connection failed."""
