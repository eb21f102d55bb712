"""Colours painted over a picture: the picture with them, and the mask of where they are.

What img2img's Sketch and Inpaint sketch start from. Bit-equal where nothing is painted.
"""

from __future__ import annotations

from PIL import Image, ImageFilter


def sketched(picture: Image.Image, paint: Image.Image) -> Image.Image:
    """Return a picture with paint over it, RGB or RGBA as the picture is.

    Args:
        picture: RGB or RGBA.
        paint: RGBA, of the same size; another is stretched.
    """
    result = picture.copy()
    layer = _fitting(paint, picture)
    result.paste(layer.convert("RGB"), (0, 0), layer.getchannel("A"))
    if result.mode == "RGBA":
        # Paint covers what was transparent.
        alpha = result.getchannel("A")
        alpha.paste(255, (0, 0), layer.getchannel("A"))
        result.putalpha(alpha)
    return result


def sketch_mask(picture: Image.Image, paint: Image.Image) -> Image.Image:
    """Return where anything is painted: L, 255 there and 0 elsewhere, of the picture's size."""
    alpha: Image.Image = _fitting(paint, picture).getchannel("A")
    return alpha.point(lambda value: 255 if value else 0)


def blended_sketch(
    picture: Image.Image, paint: Image.Image, *, transparency: float, blur: float
) -> Image.Image:
    """Return the picture that Inpaint sketch starts from: the paint is soft and lets through.

    A1111's rule: painted picture and mask are blurred alike, and the mask mixes the one with the
    picture.

    Args:
        picture: RGB or RGBA.
        paint: RGBA.
        transparency: of the paint, 0 to 1; at 1 it only says where is drawn anew.
        blur: radius in pixels, A1111's mask blur.
    """
    soft = ImageFilter.GaussianBlur(blur)
    mask = sketch_mask(picture, paint)
    share = mask.filter(soft).point(lambda value: round(value * (1 - transparency)))
    return Image.composite(sketched(picture, paint).filter(soft), picture, share)


def _fitting(paint: Image.Image, picture: Image.Image) -> Image.Image:
    layer = paint.convert("RGBA")
    return layer if layer.size == picture.size else layer.resize(picture.size)
