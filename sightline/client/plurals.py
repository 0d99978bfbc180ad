"""Counts with the word that fits them."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """`1 image` or `2 images`; the plural is the singular with an s unless it is given."""
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"
