"""Counts with a noun in the singular or plural."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """`1 image` or `2 images`; the plural defaults to the singular with an s."""
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"
