"""Who a device is: its key, its certificate, and how it gets and renews them.

The key is made on the device and never leaves it. A one-time claim token
introduces the device to the cloud, which signs a certificate for a limited time.
"""
