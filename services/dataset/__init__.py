"""Registers labelled images: checks them, reports what is wrong with them, and freezes the good ones as a snapshot."""
