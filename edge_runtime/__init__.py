"""Run quantised models next to a sensor, offline for as long as it must be."""
