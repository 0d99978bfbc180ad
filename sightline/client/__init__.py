"""The Python client: connections, credentials, uploads, requests and typed results."""
