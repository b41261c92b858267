"""Sensors on an I2C bus of Linux, read through ``/dev/i2c-N``."""
