"""Ingest, rescoring, refresh and publication."""
