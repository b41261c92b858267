"""Isolated environments in which foreign frameworks open models.

A worker's environment holds neither this package nor its dependencies: what runs
in it (`harness`, `refusal`, `jobs`) uses the standard library and the framework.
"""
