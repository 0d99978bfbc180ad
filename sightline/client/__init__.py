"""What a program calls Sightline with: connections, credentials, uploads, the stubs."""
