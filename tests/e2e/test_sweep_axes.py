"""Every axis changes what it says, on the model that ships; an axis without a row here fails."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.make_tiny_checkpoints import TINY_METADATA, write_checkpoint
from sdforge.core.device import probe
from sdforge.core.paths import Paths, demo_checkpoint, demo_folder
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from sdforge.sweeps.axis_table import axes
from sdforge.sweeps.manifest import CellStatus, Sweep
from sdforge.sweeps.request import AskedAxis, SweepRequest
from sdforge.sweeps.sweeps import Sweeps

pytestmark = pytest.mark.slow

PATIENCE = 120.0
STYLES = "name,prompt,negative_prompt\nFoxy,a fox,\nSnowy,snow,\n"
PLAIN = {
    "prompt": "an (owl:1.4), blue background", "negative_prompt": "a fox", "steps": 4, "seed": 3,
    "width": 64, "height": 64, "cfg_scale": 5.0, "sampler": "Euler a", "checkpoint": "demo",
}  # fmt: skip
HIRES = {"hires": True, "hires_scale": 1.5, "denoising_strength": 0.6}
CHURN = {"sampler": "Euler", "s_churn": 4.0}
KARRAS = {"sampler": "Euler", "schedule": "Karras"}
LORA = {"prompt": "an owl <lora:flat:1>"}
MASKED = {"mask": True, "mask_blur_x": 0, "mask_blur_y": 0}


@dataclass(frozen=True)
class Row:
    """Two values of an axis, and a request in which they matter; `same` if pictures must not."""

    values: str
    base: dict[str, Any] = field(default_factory=dict)
    same: bool = False


BOTH = {
    # Only Flux heeds it.
    "Distilled CFG Scale": Row("2, 5", same=True),
    "Nothing": Row(""),
    "Seed": Row("1, 2"),
    "Var. seed": Row("1, 2", {"subseed_strength": 0.7}),
    "Var. strength": Row("0.1, 0.9", {"subseed": 4}),
    "Steps": Row("3, 4"),
    "CFG Scale": Row("2, 9"),
    "Prompt S/R": Row("owl, fox"),
    "Prompt order": Row("owl, blue"),
    "Sampler": Row("Euler, Heun"),
    "Checkpoint name": Row("demo, other"),
    "Negative Guidance minimum sigma": Row("0, 14"),
    "Sigma Churn": Row("0, 5", {"sampler": "Euler"}),
    "Sigma min": Row("0, 5", CHURN),
    "Sigma max": Row("0.1, 100", CHURN),
    "Sigma noise": Row("0.8, 1", CHURN),
    "Schedule type": Row("Karras, Exponential"),
    "Schedule min sigma": Row("0.05, 0.8", KARRAS),
    "Schedule max sigma": Row("5, 14", KARRAS),
    "Schedule rho": Row("2, 7", KARRAS),
    "Beta schedule alpha": Row("0.3, 0.9", {"schedule": "Beta"}),
    "Beta schedule beta": Row("0.3, 0.9", {"schedule": "Beta"}),
    "Eta": Row("0, 1"),
    "Clip skip": Row("1, 2"),
    "VAE": Row("Automatic, fine"),
    "Styles": Row("Foxy, Snowy"),
    "UniPC Order": Row("1, 3", {"sampler": "UniPC", "steps": 6, "denoising_strength": 1.0}),
    "Token merging ratio": Row("0, 0.8"),
    "Always discard next-to-last sigma": Row("False, True", KARRAS),
    "SGM noise multiplier": Row("False, True"),
    "Refiner checkpoint": Row("None, other", {"refiner_switch_at": 0.5}),
    "Refiner switch at": Row("0.3, 0.8", {"refiner": "other"}),
    "RNG source": Row("CPU, NV"),
    "FP8 mode": Row("Disable, Enable"),
    "Size": Row("64x64, 96x64"),
    "LoRA": Row("None, flat:1"),
    "LoRA weight": Row("0.1, 1", LORA),
    "Precision": Row("Automatic, int8"),
    "Memory mode": Row("normal, lowvram", same=True),
    "Preset": Row("sd, xl", same=True),
    "Emphasis": Row("None, Original"),
    "Resize seed from width": Row("0, 128", {"seed_resize_from_h": 128}),
    "Resize seed from height": Row("0, 128", {"seed_resize_from_w": 128}),
    "Tiling": Row("False, True"),
    "Prompt": Row("an owl, a fox"),
    "Negative prompt": Row("an owl, a fox"),
    "Width": Row("64, 96"),
    "Height": Row("64, 96"),
}
TXT2IMG = BOTH | {
    "Hires Distilled CFG Scale": Row("2, 5", HIRES, same=True),
    "Hires steps": Row("1, 4", HIRES),
    "Hires sampler": Row("Euler, Heun", HIRES),
    "Denoising": Row("0.2, 0.9", HIRES),
    # A1111 offers it here too; only img2img has such a first noise.
    "Initial noise multiplier": Row("0.8, 1.2", HIRES, same=True),
    "Extra noise": Row("0, 0.6", HIRES),
    "Hires upscaler": Row("Latent, Lanczos", HIRES),
    "Token merging ratio high-res": Row("0, 0.8", HIRES),
    "Hires checkpoint": Row("None, other", HIRES),
    "Hires schedule type": Row("Karras, Exponential", HIRES),
    "Upscale by": Row("1.5, 2", HIRES),
    "Resize width to": Row("96, 128", HIRES),
    "Resize height to": Row("96, 128", HIRES),
    "Hires prompt": Row("an owl, a fox", HIRES),
    "Hires negative prompt": Row("an owl, a cow", HIRES),
    "Hires CFG Scale": Row("1, 9", HIRES),
    "Hires. fix": Row("False, True", {"hires_scale": 1.5}),
}
IMG2IMG = BOTH | {
    # Only checkpoints that see a picture beside the latents heed these two.
    "Image CFG Scale": Row("1, 3", same=True),
    "Cond. Image Mask Weight": Row("0, 1", MASKED, same=True),
    "Denoising": Row("0.2, 0.9"),
    "Initial noise multiplier": Row("0.8, 1.2"),
    "Extra noise": Row("0, 0.6"),
    # These two are of passes that img2img has not: hires fix, and a start from noise alone.
    "Token merging ratio high-res": Row("0, 0.8", same=True),
    "SGM noise multiplier": Row("False, True", same=True),
    "Resize mode": Row("0, 1", {"wide": True}),
    "Mask blur along x": Row("0, 16", MASKED),
    "Mask blur along y": Row("0, 16", MASKED),
    "Mask rounding": Row("False, True", {"mask": True}),
    "Masked content": Row("0, 2", MASKED | {"denoising_strength": 1.0}),
    "Inpaint area": Row("False, True", MASKED | {"only_masked_padding": 0}),
    "Only masked padding, pixels": Row("0, 32", MASKED | {"only_masked": True}),
    "Mask mode": Row("False, True", MASKED),
}


@dataclass
class Real:
    """A server's parts over real models."""

    sweeps: Sweeps
    engine: Engine

    def draw(self, kind: str, axis: str, row: Row) -> Sweep:
        """Draw the two cells of a row."""
        base = PLAIN | row.base
        flags = {name: base.pop(name, False) for name in ("mask", "wide")}
        if kind == "img2img":
            picture = Image.radial_gradient("L").resize((128 if flags["wide"] else 64, 64))
            base["init_images"] = (self.put(picture.convert("RGB")),)
            base.setdefault("denoising_strength", 0.7)
        if flags["mask"]:
            mask = Image.new("L", (64, 64))
            # Off the latents' raster, so that blur and rounding matter.
            mask.paste(255, (13, 13, 43, 43))
            base["mask"] = self.put(mask)
        asked = SweepRequest(
            base=GenerationRequest(**base), axes=[AskedAxis(axis=axis, values=row.values)]
        )
        sweep = self.sweeps.submit(asked, save_images=False)
        return self.sweeps.wait(sweep.id, PATIENCE)

    def put(self, picture: Image.Image) -> Any:
        file = io.BytesIO()
        picture.save(file, "PNG")
        return self.engine.add_input(file.getvalue(), "picture")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    paths = Paths.under(tmp_path_factory.mktemp("axes"))
    for folder in (paths.checkpoints[0], paths.vaes[0], paths.loras[0]):
        folder.mkdir(parents=True)
    shutil.copy(demo_checkpoint(), paths.checkpoints[0] / "demo.safetensors")
    write_checkpoint(paths.checkpoints[0] / "other.safetensors", metadata=TINY_METADATA)
    write_checkpoint(paths.vaes[0] / "fine.safetensors", prefix="first_stage_model.", seed=7)
    lora = next(path for path in demo_folder("Lora").glob("*.safetensors") if "flat" in path.name)
    shutil.copy(lora, paths.loras[0] / "flat.safetensors")
    paths.styles[0].write_text(STYLES, encoding="utf-8")
    library = Library(paths, hashing=False)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: probe(force_cpu=True), inputs=InputFolder(paths.inputs)
        ),
        version="test",
    )
    sweeps = Sweeps(engine, paths)
    engine.start()
    yield Real(sweeps, engine)
    engine.close(timeout=30)


def pixels(sweep: Sweep, index: int) -> Any:
    return np.asarray(Image.open(Path(sweep.cell(index).pictures[0].path)))


ROWS = {"txt2img": TXT2IMG, "img2img": IMG2IMG}


@pytest.mark.parametrize("kind", ROWS)
def test_every_axis_has_a_row(kind: str) -> None:
    wanted = {axis.label for axis in axes(kind) if not axis.missing}
    assert wanted - ROWS[kind].keys() == set()


@pytest.mark.parametrize(
    ("kind", "label"),
    [(kind, axis.label) for kind in ROWS for axis in axes(kind)[1:] if not axis.missing],
)
def test_an_axis_changes_what_it_says(real: Real, kind: str, label: str) -> None:
    row = ROWS[kind][label]
    sweep = real.draw(kind, label, row)
    cells = [sweep.cell(index) for index in range(2)]
    assert [cell.status for cell in cells] == [CellStatus.DONE] * 2, [one.error for one in cells]
    first, second = pixels(sweep, 0), pixels(sweep, 1)
    is_same = first.shape == second.shape and bool((first == second).all())
    assert is_same is row.same
