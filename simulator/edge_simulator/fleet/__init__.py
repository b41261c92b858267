"""Fleets of virtual devices that run the real device code: `edge-runtime simulate`.

One YAML file declares devices, faults and what is expected of them. It runs in
two ways: `fast` drives every device in one thread on one event clock, and
`processes` starts one real process per device, with a real broker between.
"""
