"""Write the generated parts of the documentation; `--check` fails when they are out of date.

docs/settings.md comes from the tables in sdforge/core, docs/payload-fields.md and
docs/conformance.md from the rows that the tests of the API run, docs/families.md from those of the
families' tests, the file tree in README.md from the first sentence of each module's docstring.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sdforge.core.fields import FIELDS  # noqa: E402 - needs the path above
from sdforge.core.settings import OPTIONS  # noqa: E402
from sdforge.models.families import FAMILIES  # noqa: E402
from sdforge.sweeps.axis_table import axes  # noqa: E402
from tests.api.contract.page import contract_page  # noqa: E402
from tests.api.payload_effects import BOTH, EFFECTS, REFUSED, SAME, Effect  # noqa: E402
from tests.models.families import lora_layers  # noqa: E402
from tests.models.families.shown import SHOWN  # noqa: E402

AXES_START, AXES_END = "<!-- axes: written by scripts/docs.py -->", "<!-- /axes -->"
LAYERS_START, LAYERS_END = "<!-- layers: written by scripts/docs.py -->", "<!-- /layers -->"
TREE_START, TREE_END = "<!-- tree: written by scripts/docs.py -->", "<!-- end of tree -->"


def settings_page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings and parameters",
        "",
        "Written by `scripts/docs.py` from `core/settings.py` and `core/fields.py`.",
        "",
        "## Settings",
        "",
        "Kept in `config.json` of the data folder; read and changed by `/sdapi/v1/options`, for",
        "one job by `override_settings`. Locked ones can be changed in the file only.",
        "",
        "| key | default | meaning | allowed | section | |",
        "|---|---|---|---|---|---|",
    ]
    for option in OPTIONS.values():
        locked = "locked" if option.locked else ""
        lines.append(
            f"| `{option.key}` | `{option.default!r}` | {option.label} | {option.allowed()} "
            f"| {option.section} | {locked} |"
        )
    lines += [
        "",
        "## Parameters of a job",
        "",
        "A default of *model* is what the checkpoint recommends (see",
        "[decision 0008](decisions/0008-omitted-size-means-the-models-own.md)).",
        "",
        "| parameter | in the API | default: page | API | allowed | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for row in FIELDS:
        page = "*model*" if row.default is None else f"`{row.default!r}`"
        api = "*model*" if row.api_default is None else f"`{row.api_default!r}`"
        lines.append(
            f"| {row.label} | `{row.api}` | {page} | {api} | {row.allowed()} | {row.help} |"
        )
    return "\n".join(lines) + "\n"


def payload_page() -> str:
    """Return docs/payload-fields.md."""
    lines = [
        "# Fields of the txt2img and img2img payloads",
        "",
        "Written by `scripts/docs.py` from `tests/api/payload_effects.py`. Each row is a test: two",
        "payloads that differ in this field alone go to a server over a real model of random",
        "weights, and their answers differ as the row says, or do not where it says *none*. A",
        "field without a row fails the tests. Run one with",
        "`python scripts/test.py 'tests/api/test_payload_fields.py' -k seed`.",
        "",
        "| field | in | what it does | shown by | test |",
        "|---|---|---|---|---|",
    ]
    for effect in sorted(EFFECTS, key=lambda effect: (effect.name, effect.routes)):
        routes = "both" if effect.routes == BOTH else effect.routes[0]
        lines.append(
            f"| `{effect.name}` | {routes} | {effect.does} | {_shown_by(effect)} "
            f"| `[{effect.routes[0]}-{effect.name}]` |"
        )
    return "\n".join(lines) + "\n"


def _shown_by(effect: Effect) -> str:
    if effect.kind == REFUSED:
        return "422 that names it"
    if effect.kind == SAME:
        return "the same pixels"
    return effect.shows.replace("_", " ") or "other pixels"


def first_sentence(path: Path) -> str:
    """Return the first line of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n", 1)[0].rstrip(".")


def file_tree() -> str:
    """Return the packages and modules of sdforge/ with what each is for."""
    lines = ["```"]
    package = ROOT / "sdforge"
    for path in sorted(package.glob("*.py")):
        if path.stem not in ("__init__",):
            lines.append(f"{path.relative_to(ROOT).as_posix():34}{first_sentence(path)}")
    for init in sorted(package.glob("*/__init__.py")):
        lines.append(f"{init.parent.relative_to(ROOT).as_posix() + '/':34}{first_sentence(init)}")
        for path in sorted(init.parent.rglob("*.py")):
            if path.stem != "__init__":
                name = "  " + path.relative_to(init.parent).as_posix()
                lines.append(f"{name:34}{first_sentence(path)}")
    lines.append("```")
    return "\n".join(lines)


def readme_page() -> str:
    """Return README.md with a fresh file tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(TREE_START)
    _, _, after = rest.partition(TREE_END)
    return f"{before}{TREE_START}\n{file_tree()}\n{TREE_END}{after}"


def families_page() -> str:
    """Return docs/families.md."""
    lines = [
        "# Model families",
        "",
        "Written by `scripts/docs.py` from `tests/models/families/shown.py`, whose rows name tests",
        "that are run on every change, with tiny files in the true layout. *Latents*: equal to",
        "diffusers' own pipeline over the same weights in fp32, to 1e-5 of the largest latents on",
        "the way. *Modes*: medvram and",
        "lowvram give the same bits as normal. *GGUF*: a packed file draws what its unpacked",
        "numbers draw, bit for bit, in every mode (of the U-Nets the first on every change, the",
        "others with `-m slow`). *Header*: the published files are known by their",
        "header alone, and no tensor in them is left over. How to add one:",
        "[new-family.md](new-family.md).",
        "",
        "| family | kinds | files | latents | modes | GGUF | header | more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in SHOWN:
        more = "; ".join(_test_words(test) for test in row.more)
        shown = (row.latents, row.modes, row.packed, row.headers)
        tests = " | ".join(map(_test_link, shown))
        label = FAMILIES.get(row.family).label
        lines.append(f"| {label} | {row.kinds} | {row.files} | {tests} | {more} |")
    return "\n".join(lines) + "\n"


def _test_link(test: str) -> str:
    file = test.partition("::")[0]
    path = (ROOT / "tests/models/families" / file).resolve().relative_to(ROOT).as_posix()
    return f"[yes](../{path})"


def _test_words(test: str) -> str:
    return test.partition("::")[2].removeprefix("test_").replace("_", " ")


def lora_page() -> str:
    """Return docs/lora.md with a fresh table of how layers are spelled."""
    text = (ROOT / "docs" / "lora.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(LAYERS_START)
    after = rest.partition(LAYERS_END)[2]
    lines = ["| family | kohya | authors | diffusers |", "|---|---|---|---|"]
    for name, family in lora_layers.FAMILIES.items():
        encoders = [layer for layer in family.layers if layer.role != "denoiser"]
        for layer in (family.layers[0], *encoders):
            spelled = [
                f"`{names[0]}`" + (", …" if len(names) > 1 else "") if names else ""
                for names in map(
                    layer.names, (lora_layers.KOHYA, lora_layers.AUTHORS, lora_layers.DIFFUSERS)
                )
            ]
            label = FAMILIES.get(name).label if layer is family.layers[0] else ""
            lines.append(f"| {label} | {' | '.join(spelled)} |")
    table = "\n".join(lines)
    return f"{before}{LAYERS_START}\n{table}\n{LAYERS_END}{after}"


def sweeps_page() -> str:
    """Return docs/sweeps.md with a fresh table of axes."""
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(AXES_START)
    _, _, after = rest.partition(AXES_END)
    of_kind = {kind: axes(kind) for kind in ("txt2img", "img2img")}
    places = {
        kind: {axis.label: str(index) for index, axis in enumerate(rows)}
        for kind, rows in of_kind.items()
    }
    every = {axis.label: axis for rows in of_kind.values() for axis in rows}
    lines = ["| axis | txt2img | img2img | |", "|---|---|---|---|"]
    for label, axis in every.items():
        said = f"not in this version: {axis.missing}" if axis.missing else axis.help
        numbers = " | ".join(places[kind].get(label, "–") for kind in of_kind)
        lines.append(f"| {label} | {numbers} | {said} |")
    table = "\n".join(lines)
    return f"{before}{AXES_START}\n{table}\n{AXES_END}{after}"


def main() -> int:
    """Write or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    check = parser.parse_args().check
    pages = {
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "docs" / "payload-fields.md": payload_page(),
        ROOT / "docs" / "conformance.md": contract_page(),
        ROOT / "docs" / "sweeps.md": sweeps_page(),
        ROOT / "docs" / "lora.md": lora_page(),
        ROOT / "docs" / "families.md": families_page(),
        ROOT / "README.md": readme_page(),
    }
    stale = [
        path
        for path, text in pages.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: run scripts/docs.py\n")
        else:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
