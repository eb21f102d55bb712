from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from sdforge.postprocess.sketch import blended_sketch, sketch_mask, sketched


def ground(mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:40, 0:60]
    values = np.stack([rows * 5, columns * 4, rows + columns], axis=-1).astype(np.uint8)
    picture = Image.fromarray(values)
    if mode == "RGBA":
        picture.putalpha(Image.new("L", picture.size, 0))
    return picture


def paint(size: tuple[int, int] = (60, 40), alpha: int = 255) -> Image.Image:
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).rectangle((20, 10, 39, 29), fill=(255, 0, 0, alpha))
    return layer


def test_paint_covers_and_the_rest_stays_to_the_bit() -> None:
    result = np.asarray(sketched(ground(), paint()))
    before = np.asarray(ground())
    assert (result[10:30, 20:40] == (255, 0, 0)).all()
    changed = (result != before).any(-1)
    assert not changed[:10].any() and not changed[30:].any() and not changed[:, :20].any()


def test_paint_makes_transparent_places_opaque() -> None:
    result = np.asarray(sketched(ground("RGBA"), paint()))
    assert (result[10:30, 20:40] == (255, 0, 0, 255)).all()
    assert (result[:10, :, 3] == 0).all()


def test_a_layer_of_another_size_is_stretched() -> None:
    result = np.asarray(sketched(ground(), paint().resize((120, 80), Image.Resampling.NEAREST)))
    assert (result[14:26, 24:36] == (255, 0, 0)).all()


def test_the_mask_is_where_paint_is_however_thin() -> None:
    mask = np.asarray(sketch_mask(ground(), paint(alpha=3)))
    assert (mask[10:30, 20:40] == 255).all()
    assert mask.sum() == 255 * 20 * 20


def test_transparent_paint_leaves_the_picture_and_opaque_paint_none_of_it() -> None:
    before = np.asarray(ground()).astype(int)
    through = np.asarray(blended_sketch(ground(), paint(), transparency=1, blur=0))
    assert (through == before).all()
    opaque = np.asarray(blended_sketch(ground(), paint(), transparency=0, blur=0))
    assert (opaque[10:30, 20:40] == (255, 0, 0)).all()
    half = np.asarray(blended_sketch(ground(), paint(), transparency=0.5, blur=0)).astype(int)
    middle = (before[20, 30] + np.array([255, 0, 0])) / 2
    assert np.abs(half[20, 30] - middle).max() <= 1


def test_a_blurred_edge_is_soft_and_far_away_nothing_changes() -> None:
    soft = np.asarray(blended_sketch(ground(), paint(), transparency=0, blur=3)).astype(int)
    before = np.asarray(ground()).astype(int)
    assert (soft[20, :5] == before[20, :5]).all()
    across = soft[20, 10:30, 0]
    assert across[0] < across[8] < across[12] < across[19]
