"""The models of a server: which there are, which are loaded, and how they come and go."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.config.check import check_timing
from edge_runtime.errors import BundleError, ConfigError, EdgeError, RequestError
from edge_runtime.metrics import Histogram
from edge_runtime.modes.models import TimedSession
from edge_runtime.modes.realtime.config import Limits, ServeConfig, ServedConfig
from edge_runtime.modes.realtime.lane import Lane
from edge_runtime.modes.realtime.sequences import Sequences
from edge_runtime.modes.realtime.served import Counts, ServedModel
from edge_runtime.ports import Choice, Clock, Timing
from edge_runtime.profiles import find_choice
from edge_runtime.update.admission import admit
from edge_runtime.update.book import LayerBook, load_book

__all__ = ["IndexEntry", "Repository"]

log = logging.getLogger(__name__)

State = Literal["READY", "UNAVAILABLE"]


class IndexEntry(msgspec.Struct, frozen=True):
    """One model version, in the words of the repository extension.

    Attributes:
        name: Model line.
        version: The bundle's.
        state: Whether it answers.
        reason: Why not.
    """

    name: str
    version: str
    state: State
    reason: str = ""


class _Candidate(msgspec.Struct, frozen=True, eq=False):
    """A bundle on disk that is sound, how it is to be run, and where its layers are."""

    path: Path
    bundle: Bundle
    choice: Choice
    layers: Path | None = None
    timing: Timing | None = None

    def book(self) -> LayerBook:
        """Read the layers of its entities; there may be none."""
        if self.layers is None:
            return LayerBook((), self.bundle.spec, self.bundle.digest)
        return load_book(self.layers, self.bundle)


class Repository:
    """Loads, keeps and forgets models; event loop only, but for what blocks.

    A version is served only after it has loaded and repeated its golden answers;
    if that fails, the one before goes on.

    Args:
        config: Where the bundles are.
        clock: Passed on.

    Attributes:
        sequences: The streams of all models.
    """

    def __init__(self, config: ServeConfig, *, clock: Clock) -> None:
        self._config = config
        self._limits: Limits = config.limits
        self._clock = clock
        self._served: dict[str, dict[str, ServedModel]] = {}
        self._down: dict[tuple[str, str], str] = {}
        self._counts: dict[str, Counts] = {}
        self._loading = asyncio.Lock()
        self.sequences = Sequences(
            limit=self._limits.sequences, idle_s=self._limits.sequence_idle_s, clock=clock
        )

    def __iter__(self) -> Iterator[ServedModel]:
        """Iterate over all that are loaded."""
        return (model for versions in self._served.values() for model in versions.values())

    def find(self, name: str, version: str = "") -> ServedModel:
        """Return a loaded model; the highest version for the empty text.

        Raises:
            RequestError: It is not known, or not loaded.
        """
        versions = self._served.get(name)
        if not versions:
            raise self._unknown(name, version)
        # The last one is the highest.
        found = versions.get(version) if version else next(reversed(versions.values()))
        if found is None:
            raise self._unknown(name, version)
        return found

    def index(self) -> list[IndexEntry]:
        """Return all versions that were ever loaded or tried, by name and version."""
        ready = {(model.name, model.version): "" for model in self}
        entries = [IndexEntry(*key, "READY") for key in ready]
        entries += [
            IndexEntry(*key, "UNAVAILABLE", reason)
            for key, reason in self._down.items()
            if key not in ready
        ]
        return sorted(entries, key=lambda entry: (entry.name, _order(entry.version)))

    @property
    def is_ready(self) -> bool:
        """Whether something is loaded and no model hangs."""
        models = list(self)
        return bool(models) and not any(
            model.lane.is_stuck(self._limits.request_s) for model in models
        )

    @property
    def answered(self) -> int:
        """Requests answered, also by what is not loaded any more."""
        return sum(counts.answered for counts in self._counts.values())

    def open_all(self) -> None:
        """Load everything; blocks, and is called before anybody asks.

        Raises:
            EdgeError: A model named in the configuration does not load, or two are
                of one name and version. One of the repository that does not is logged.
        """
        for named in self._config.models:
            found = self._candidate(named)
            spec = found.bundle.spec
            if spec.version in self._served.get(spec.name, {}):
                raise ConfigError(
                    f"{found.bundle.ref} is there twice",
                    where=str(named.bundle),
                    expected="one bundle for each name and version",
                    remedy="Leave one out, or give it another version in bundle.yaml.",
                )
            self._serve(self._opened(found))
        for path in self._paths():
            try:
                found = self._candidate(ServedConfig(bundle=path))
                if found.bundle.spec.version not in self._served.get(found.bundle.spec.name, {}):
                    self._serve(self._opened(found))
            except EdgeError as error:
                self._note_down((path.name, ""), error)

    async def load(self, name: str) -> None:
        """Load what the disk holds of a model now; a version that has not changed stays.

        Its book of layers is read again, for the sequences that start from now on.
        A version that is new is first opened in a child process with limits.

        Raises:
            RequestError: There is no such model, or a version does not load.
        """
        async with self._loading:
            candidates = await asyncio.to_thread(self._candidates, name)
            if not candidates:
                raise self._unknown(name, "")
            for found in candidates:
                await self._renew(found)

    def unload(self, name: str) -> None:
        """Forget all versions of a model; what waits for it is answered.

        Raises:
            RequestError: It is not loaded.
        """
        versions = self._served.pop(name, None)
        if not versions:
            raise self._unknown(name, "")
        for model in versions.values():
            self._down[model.name, model.version] = "unloaded"
            self._let_go(model)

    def close(self) -> None:
        """End the threads of all models behind what waits for them."""
        for model in self:
            model.lane.close()

    # --- finding ----------------------------------------------------------------------

    def _paths(self) -> list[Path]:
        folder = self._config.repository
        if folder is None:
            return []
        return sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and (path.is_dir() or path.suffix == ".zip")
        )

    def _candidates(self, name: str) -> list[_Candidate]:
        """Read all bundles of one name; one that is unsound is logged."""
        named = [*self._config.models, *(ServedConfig(bundle=path) for path in self._paths())]
        found: dict[str, _Candidate] = {}
        for one in named:
            try:
                candidate = self._candidate(one)
            except BundleError as error:
                log.warning("bundle.unsound", extra={"path": str(one.bundle), "why": str(error)})
                continue
            if candidate.bundle.spec.name == name:
                found.setdefault(candidate.bundle.spec.version, candidate)
        return list(found.values())

    def _candidate(self, named: ServedConfig) -> _Candidate:
        bundle = load_bundle(named.bundle)
        choice = find_choice(bundle, named.choice)
        return _Candidate(named.bundle, bundle, choice, named.layers, named.time)

    # --- coming and going -------------------------------------------------------------

    async def _renew(self, found: _Candidate) -> None:
        spec = found.bundle.spec
        known = self._served.get(spec.name, {}).get(spec.version)
        try:
            if known is not None and known.bundle.digest == found.bundle.digest:
                known.book = await asyncio.to_thread(found.book)
                return
            model = await asyncio.to_thread(self._admitted, found)
        except EdgeError as error:
            self._note_down((spec.name, spec.version), error)
            raise RequestError(
                f"{found.bundle.ref} does not load: {error}",
                kind="failed",
                where="repository",
                expected="a bundle that repeats its golden answers",
                remedy="What was served before goes on.",
            ) from error
        self._serve(model)
        if known is not None:
            self._let_go(known)

    def _admitted(self, found: _Candidate) -> ServedModel:
        """Open a bundle after a child process has; blocks for about a second."""
        verdict = admit(found.path, found.choice)
        if not verdict.is_admitted:
            raise BundleError(
                f"it was not admitted: {verdict.reason}",
                where=found.bundle.ref,
                expected="a model that runs within limits and answers twice alike",
                remedy="edge-runtime bundle admit tells more.",
            )
        return self._opened(found)

    def _opened(self, found: _Candidate) -> ServedModel:
        limits = self._limits
        check_timing(found.bundle, found.timing, "time")
        return ServedModel(
            found.bundle,
            found.choice,
            TimedSession(open_session(found.bundle, found.choice), Histogram()),
            book=found.book(),
            lane=Lane(
                found.bundle.ref,
                inline_ns=limits.inline_ms * 1e6,
                queue_limit=limits.queue,
                clock=self._clock,
            ),
            sequences=self.sequences,
            timing=found.timing,
            counts=self._counts.setdefault(found.bundle.ref, Counts()),
            most=limits.windows,
            clock=self._clock,
        )

    def _serve(self, model: ServedModel) -> None:
        versions = {**self._served.get(model.name, {}), model.version: model}
        self._served[model.name] = dict(sorted(versions.items(), key=lambda one: _order(one[0])))
        self._down.pop((model.name, model.version), None)
        log.info("model.loaded", extra={"model": model.bundle.ref, "base": model.bundle.digest})

    def _let_go(self, model: ServedModel) -> None:
        self.sequences.unload(model.bundle.digest)
        model.close()
        log.info("model.unloaded", extra={"model": model.bundle.ref})

    def _note_down(self, key: tuple[str, str], error: EdgeError) -> None:
        self._down[key] = str(error)
        log.warning("model.unavailable", extra={"model": "@".join(key), "why": str(error)})

    def _unknown(self, name: str, version: str) -> RequestError:
        known = [f"{model.name} {model.version}" for model in self]
        return RequestError(
            "there is no such model, or it is not loaded",
            kind="unknown",
            where=f"model {name!r}" + (f", version {version!r}" if version else ""),
            expected=f"one of {', '.join(known[:16]) or 'none'}",
            remedy="GET /v2/repository/index tells what there is.",
        )


def _order(version: str) -> list[tuple[int, int | str]]:
    """Sort 1.10 behind 1.9, and text behind numbers."""
    parts = re.split(r"(\d+)", version)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]
