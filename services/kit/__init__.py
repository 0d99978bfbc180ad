"""Vocabulary and ports: what every service speaks, independent of any system outside."""
