"""The whole loop, live: `edge-runtime demo`."""
