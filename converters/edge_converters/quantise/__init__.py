"""Make quantised files of a float model, and find which operators may not be."""
