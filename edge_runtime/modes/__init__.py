"""Drivers around one `Pipeline`: they only move data and time."""
