"""``edge-runtime bundle``: look at a bundle, and let it prove itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle as LoadedBundle
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import BundleError, TrustError
from edge_runtime.ports import Choice
from edge_runtime.spec import as_builtins
from edge_runtime.update.admission import admit
from edge_runtime.update.slots import read_signed, signed_path
from edge_runtime.update.trust import Trust, public_key_of

__all__ = ["Bundle"]


class Bundle:
    """Show, verify or admit a bundle."""

    name = "bundle"
    help = "show what is in a bundle, verify its signature, or let it prove itself"
    example = "edge-runtime bundle admit examples/gas_turbine/bundles/turbine-nox-1.0.0"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        verbs = parser.add_subparsers(required=True, metavar="VERB")
        _verb(verbs, "show", "print the model's needs and promises").set_defaults(verb=_show)
        verify = _verb(verbs, "verify", "check the statement beside the bundle against a key")
        verify.add_argument("--key", type=Path, required=True, help="public release key")
        verify.set_defaults(verb=_verify)
        prove = _verb(verbs, "admit", "replay the golden windows in a child process with limits")
        prove.add_argument("--backend", help="model runtime; the bundle's preference by default")
        prove.set_defaults(verb=_admit)

    def run(self, args: argparse.Namespace) -> int:
        """Do what the verb says; 1 if the bundle fails, 3 if it is not trusted."""
        facts: dict[str, object] = args.verb(load_bundle(args.bundle), args)
        if args.json:
            text = msgspec.json.format(msgspec.json.encode(facts), indent=2).decode()
        else:
            text = "\n".join(f"{name:12} {value}" for name, value in facts.items())
        sys.stdout.write(text + "\n")
        return 0


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("bundle", type=Path, help="folder or zip file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _show(bundle: LoadedBundle, _args: argparse.Namespace) -> dict[str, object]:
    spec = as_builtins(bundle.spec)
    files = {name: len(content) for name, content in sorted(bundle.files.items())}
    return {"digest": bundle.digest, "files": files, **spec}


def _verify(bundle: LoadedBundle, args: argparse.Namespace) -> dict[str, object]:
    statement = Trust([public_key_of(args.key)]).verify_base(read_signed(signed_path(args.bundle)))
    if statement.digest != bundle.digest:
        raise TrustError(
            f"digest: the files are {bundle.digest[:16]}",
            where=str(args.bundle),
            expected=f"{statement.digest[:16]}, as signed",
            remedy="The bundle was changed after it was signed; fetch it again.",
        )
    return {"digest": bundle.digest, "ref": bundle.ref, "seq": statement.seq, "signature": "good"}


def _admit(bundle: LoadedBundle, args: argparse.Namespace) -> dict[str, object]:
    verdict = admit(args.bundle, Choice(backend=args.backend))
    if not verdict.is_admitted:
        raise BundleError(
            verdict.reason,
            where=bundle.ref,
            expected="golden windows answered as recorded, twice",
            remedy="Do not use this bundle; make or fetch it again.",
        )
    return {"ref": bundle.ref, **msgspec.structs.asdict(verdict)}
