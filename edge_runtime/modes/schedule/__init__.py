"""Work that is done by the clock: every so often, by cron words, or once.

What was planned and what became of it stands in a history, which survives any
crash; a lock makes sure that one process at a time does a job.
"""

from edge_runtime.modes.schedule.config import JobConfig, ScheduleConfig, load_schedule
from edge_runtime.modes.schedule.history import History, Run
from edge_runtime.modes.schedule.runner import Job, Scheduler
from edge_runtime.modes.schedule.when import When

__all__ = [
    "History",
    "Job",
    "JobConfig",
    "Run",
    "ScheduleConfig",
    "Scheduler",
    "When",
    "load_schedule",
]
