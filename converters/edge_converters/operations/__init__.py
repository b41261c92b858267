"""What a model file computes, operator by operator, and which runtimes know how."""

from edge_converters.operations.operation import Operation, count_macs

__all__ = ["Operation", "count_macs"]
