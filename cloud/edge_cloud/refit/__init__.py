"""Refitted weights: quantised, proven, signed and offered, with a record of what they lose."""
