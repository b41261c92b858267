"""Signed updates: trust, proof in a child process, slots, and the agent that ties them."""
