"""Decisions that switch pins.

Nothing is imported here: the guardian, a process of its own, has to stay small.
"""
