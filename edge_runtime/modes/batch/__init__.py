"""Batch mode: a file of rows in, a file or database of answers out.

The same `Pipeline` as on the device scores shard by shard. What is committed is
there exactly once, however often the process dies.
"""

from edge_runtime.modes.batch.disk import Disk
from edge_runtime.modes.batch.job import BatchJob
from edge_runtime.modes.batch.run import BatchReport, Progress, Scorers, run_batch
from edge_runtime.modes.batch.shard import Shard, ShardResult, score_alone, score_shard, shards_of

__all__ = [
    "BatchJob",
    "BatchReport",
    "Disk",
    "Progress",
    "Scorers",
    "Shard",
    "ShardResult",
    "run_batch",
    "score_alone",
    "score_shard",
    "shards_of",
]
