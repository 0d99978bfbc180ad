"""A snapshot into the best model that the budget buys."""
