"""A worker answers, refuses or dies, and the tool always says which in words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge_converters.contracts import Limits
from edge_converters.workers.ask import Answer, Worker, ask, here
from edge_runtime.errors import BundleError, ConfigError, ModelError, TrustError

JOBS = """
import ctypes, os, resource, signal, socket, sys, time
from edge_converters.workers.refusal import Refusal

def echo(**values): return values
def refuse(code): raise Refusal("it is odd", "an even one", "Double it.", exit_code=code)
def fail(): print("about to fail"); raise KeyError("weights")
def die(number): print("last words", flush=True); os.kill(os.getpid(), number)
def crash(): ctypes.string_at(0)
def leave(): os._exit(7)
def sleep():
    while True: time.sleep(1)
def eat(): return {"n": len(bytearray(1 << 40))}
def eat_slowly():
    kept = []
    while True: kept.append(bytearray(1 << 26))
def reach():
    try: socket.create_connection(("192.0.2.1", 80), 5)
    except OSError as error: return {"errno": error.errno}
def environment(): return dict(os.environ)
def limits(): return {"core": resource.getrlimit(resource.RLIMIT_CORE)[0]}
def garbage(): return {"value": object()}
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put jobs that misbehave where workers find them."""
    (tmp_path / "jobs_of_test").mkdir()
    (tmp_path / "jobs_of_test" / "__init__.py").touch()
    (tmp_path / "jobs_of_test" / "odd.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))


def asked(job: str, limits: Limits | None = None, **arguments: object) -> Answer:
    limits = limits or Limits(memory_mb=2048, seconds=20)
    return ask(here(), f"odd.{job}", arguments, limits, where="a.model", package="jobs_of_test")


pytestmark = pytest.mark.usefixtures("jobs")


def test_an_answer_comes_back_as_it_was_given() -> None:
    """JSON in, JSON out."""
    answer = asked("echo", a=[1, 2.5, None], b={"c": "d"})

    assert answer.result == {"a": [1, 2.5, None], "b": {"c": "d"}}
    assert answer.peak_rss_mb > 1


@pytest.mark.parametrize(("code", "kind"), [(1, BundleError), (2, ConfigError), (3, TrustError)])
def test_a_refusal_keeps_its_parts_and_its_exit_code(code: int, kind: type[Exception]) -> None:
    """A job that says no is not a job that failed."""
    with pytest.raises(kind, match=r"a\.model: it is odd; expected an even one") as raised:
        asked("refuse", code=code)

    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("fail", "KeyError: 'weights'"),
        ("crash", "killed by SIGSEGV"),
        ("leave", "exit code 7"),
        ("garbage", "exit code 1"),
    ],
)
def test_a_death_is_an_error_with_its_cause(job: str, said: str) -> None:
    """Never a crash of the tool."""
    with pytest.raises(ModelError, match=said) as raised:
        asked(job)

    assert raised.value.remedy


def test_the_end_of_the_log_stands_in_the_message() -> None:
    """What the framework said last says most."""
    with pytest.raises(ModelError, match=r"SIGABRT(.|\n)*\| last words"):
        asked("die", number=6)


def test_memory_is_limited() -> None:
    """A worker that eats everything leaves the machine alone."""
    for job in ("eat", "eat_slowly"):
        with pytest.raises(ModelError, match="memory") as raised:
            asked(job, Limits(memory_mb=512, seconds=20))

        assert "--limit-mb" in raised.value.remedy


def test_time_is_limited() -> None:
    """A worker that hangs is ended, with everything it started."""
    with pytest.raises(ModelError, match=r"more than 1\.5 s") as raised:
        asked("sleep", Limits(memory_mb=2048, seconds=1.5))

    assert "--limit-s" in raised.value.remedy


def test_the_network_is_taken_away_or_it_says_so() -> None:
    """Where namespaces are allowed there is no route to anywhere."""
    answer = asked("reach")

    if answer.network == "none":
        assert answer.result["errno"] == 101  # ENETUNREACH
    else:
        assert answer.network.startswith("open: ")


def test_secrets_and_proxies_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's environment holds where things are, and nothing else."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")

    found = asked("environment").result

    assert not {"AWS_SECRET_ACCESS_KEY", "https_proxy"} & found.keys()
    assert found["TMPDIR"] != os.environ.get("TMPDIR")
    assert asked("limits").result == {"core": 0}


def test_a_foreign_environment_finds_only_its_own_modules(tmp_path: Path) -> None:
    """This environment's packages would be other versions of the worker's."""
    foreign = Worker("foreign", Path(sys.executable))

    with pytest.raises(ModelError, match="No module named 'jobs_of_test'"):
        ask(foreign, "odd.echo", {}, Limits(seconds=20), where="m", package="jobs_of_test")
    assert ask(foreign, "nothing.nothing", {}, Limits(seconds=20), where="m").result == {}
