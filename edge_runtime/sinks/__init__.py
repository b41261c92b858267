"""Where results are shown or written on the device itself; plug-ins found by name."""
