"""A link that breaks on purpose: the proxy, and what may go wrong on it."""

from edge_simulator.link.flow import Chances
from edge_simulator.link.proxy import LinkCounts, LinkProxy

__all__ = ["Chances", "LinkCounts", "LinkProxy"]
