"""Virtual devices, faults and the demo."""
