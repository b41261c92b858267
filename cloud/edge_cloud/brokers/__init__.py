"""Configuration for brokers: one module for each kind."""
