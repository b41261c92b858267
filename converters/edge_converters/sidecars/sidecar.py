"""What a sidecar tells, whatever its format."""

from __future__ import annotations

import msgspec

from edge_runtime.spec import ModelSpec

__all__ = ["Sidecar"]


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        origin: Format and place, for people.
        changes: Fields of `ModelSpec` that it decides.
        labels: Names of the answers, where it knows nothing else.
        notes: A sentence each.
    """

    origin: str
    changes: dict[str, object] = {}
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def applied_to(self, spec: ModelSpec) -> ModelSpec:
        """Return a spec with what the sidecar says.

        Raises:
            ConfigError: It does not go together.
        """
        changes = dict(self.changes)
        if self.labels and len(self.labels) == len(spec.labels):
            changes["labels"] = self.labels
        return msgspec.structs.replace(spec, **changes)
