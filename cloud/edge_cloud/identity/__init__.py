"""Who may connect: the cloud's certificate authority, and its book of devices."""
