"""A process killed at any instant leaves position and records together, or neither."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox

WRITER = """
import sys
from pathlib import Path
import numpy as np
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.types import Table

folder, epoch = Path(sys.argv[1]), int(sys.argv[2])
config = OutboxConfig(quota_mb=64, ballast_mb=0)
outbox = Outbox.open(
    folder / "outbox.db", epoch=epoch, incarnation=7, config=config, clock=SystemClock()
)
resume = outbox.resume("main")
position = 0 if resume is None else resume.position
while True:
    rows = np.arange(position, position + 7, dtype=np.int64)
    position += 7
    outbox.commit(
        source="main", position=position, snapshot=b"%d" % position, base="",
        batches=[Batch("main", "estimate", Table({"x": rows}))],
    )
    sys.stdout.write(f"{position}\\n")
    sys.stdout.flush()
"""

KILLS = 12


def _killed_after(folder: Path, epoch: int, commits: int) -> int:
    """Let a writer run, kill it after some commits; return the last position it reported."""
    command = [sys.executable, "-c", WRITER, str(folder), str(epoch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(commits)]
        writer.kill()
        rest = writer.stdout.read().split("\n")
    return max([*reported, *(int(line) for line in rest[:-1])])


def test_position_and_records_survive_kill_9_together(
    tmp_path: Path, open_outbox: Callable[..., Outbox]
) -> None:
    """After each of a dozen kills: rows 0 to position, each once, and nothing reported is gone."""
    luck = random.Random(5)

    for epoch in range(1, KILLS + 1):
        reported = _killed_after(tmp_path, epoch, luck.randint(1, 40))

        outbox = open_outbox(epoch=100 + epoch)
        resume = outbox.resume("main")
        blocks = outbox.pending(limit_bytes=1 << 30)
        while more := outbox.pending(blocks[-1].id, limit_bytes=1 << 30):
            blocks += more
        found = [int(x) for block in blocks for x in decode_table(block.body).columns["x"]]
        outbox.close()

        assert resume is not None
        assert resume.position >= reported
        assert resume.snapshot == b"%d" % resume.position
        assert found == list(range(resume.position))
