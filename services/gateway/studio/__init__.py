"""The studio: web pages for people who do not program."""
