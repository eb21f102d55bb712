"""`python -m sdforge merge A B [C] --output FILE`: merges model files without a server.

Files are named by their paths: whoever types the command owns the disk.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sdforge.core.errors import InvalidRequest, MissingModel, SdforgeError
from sdforge.core.merge import (
    ADD_DIFFERENCE,
    NO_INTERPOLATION,
    PRECISIONS,
    SUFFIX,
    WEIGHTED_SUM,
    Merge,
)
from sdforge.core.settings import write_atomically
from sdforge.models.hashes import file_sha256, legacy_hash
from sdforge.models.merging.metadata import Origin, merged_metadata
from sdforge.models.merging.plan import MergePlan, plan_merge
from sdforge.models.merging.target import check_space, check_target, inputs_of
from sdforge.models.opening import open_model

_METHODS = {1: NO_INTERPOLATION, 2: WEIGHTED_SUM, 3: ADD_DIFFERENCE}


def main(arguments: Sequence[str]) -> int:
    """Merge files and print the new one's name; the status is 1 when that is not possible."""
    try:
        asked = _parser().parse_args(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    try:
        _merge(asked)
    except SdforgeError as error:
        sys.stderr.write(f"sdforge merge: {error.message}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdforge merge",
        description="Make a checkpoint of others: one file is saved anew, two become "
        "A*(1 - M) + B*M, three A + (B - C)*M.",
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", type=Path, help="A, and B and C if wanted")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="a .safetensors file")
    add("-m", "--multiplier", type=float, default=0.3, metavar="M", help="0 to 1 (default 0.3)")
    add("--precision", choices=PRECISIONS[1:], default="", help="default: as in the files")
    add("--vae", type=Path, metavar="FILE", help="a VAE to put in")
    add("--discard", default="", metavar="REGEX", help="leave out tensors whose names it finds")
    add("--overwrite", action="store_true", help="replace a file that is there")
    add("--no-metadata", action="store_true", help="save none")
    add("--no-hash", action="store_true", help="do not read the files for their hashes first")
    return parser


def _merge(asked: argparse.Namespace) -> None:
    files: list[Path] = asked.files
    if len(files) > len(_METHODS):
        raise InvalidRequest("FILE", f"{len(files)} files", "one, two or three")
    output: Path = asked.output
    if output.suffix.lower() != SUFFIX:
        raise InvalidRequest("--output", str(output), f"a file whose name ends in {SUFFIX}")
    merge = Merge(
        primary=str(files[0]),
        secondary=str(files[1]) if len(files) > 1 else "",
        tertiary=str(files[2]) if len(files) > 2 else "",
        method=_METHODS[len(files)],
        multiplier=asked.multiplier,
        precision=asked.precision,
        vae=asked.vae.name if asked.vae else "",
        discard=asked.discard,
        name=output.name,
        save_metadata=not asked.no_metadata,
    )
    merge.check()
    vae = open_model(asked.vae) if asked.vae else None
    plan = plan_merge(merge, [open_model(path) for path in files], vae)
    check_target(output, inputs_of(plan), "--output", overwrite=asked.overwrite)
    check_space(output.parent, plan)
    for notice in plan.notices:
        sys.stderr.write(f"{notice}\n")
    origins = [_origin(path, hashed=not asked.no_hash and merge.save_metadata) for path in files]
    from sdforge.models.merging.write import write_merged

    sha256 = write_merged(plan, merged_metadata(plan, origins), output, _shown(plan))
    _copy_config(files, output)
    sys.stdout.write(f"{output} [{sha256[:10]}] {output.stat().st_size} bytes\n")


def _origin(path: Path, *, hashed: bool) -> Origin:
    if path.is_dir():
        return Origin(name=path.name)
    try:
        sha256 = file_sha256(path) if hashed else None
    except OSError as error:
        raise MissingModel(f"{path} cannot be read: {error.strerror or error}") from error
    return Origin(name=path.name, sha256=sha256, legacy_hash=legacy_hash(path))


def _shown(plan: MergePlan) -> Callable[[int], None]:
    """Return what prints progress on a terminal, in tenths."""
    done = tenths = 0

    def on_progress(count: int) -> None:
        nonlocal done, tenths
        done += count
        if done * 10 // max(plan.data_bytes, 1) > tenths and sys.stderr.isatty():
            tenths = done * 10 // max(plan.data_bytes, 1)
            sys.stderr.write(f"{min(tenths * 10, 100)} %\n")

    return on_progress


def _copy_config(files: Sequence[Path], output: Path) -> None:
    for path in files:
        config = path.with_suffix(".yaml")
        if config.is_file():
            write_atomically(output.with_suffix(".yaml"), config.read_bytes())
            return
