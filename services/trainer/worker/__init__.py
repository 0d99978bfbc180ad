"""Takes one piece of work at a time and supervises the child that carries it out."""
