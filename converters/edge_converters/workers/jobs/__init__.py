"""What workers do: one module a framework, each with functions from JSON to JSON."""
