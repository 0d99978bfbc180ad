"""Registers labelled images: checks them, says what is wrong with them, and freezes the good ones as a snapshot."""
