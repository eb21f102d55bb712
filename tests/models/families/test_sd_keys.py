from sdforge.models.families.sd_keys import (
    Sizes,
    checkpoint_shapes,
    clip_shapes,
    unet_shapes,
    vae_shapes,
)


def count(shapes: object) -> int:
    import math

    assert isinstance(shapes, dict)
    return sum(math.prod(shape) for shape in shapes.values())


def test_the_default_sizes_are_those_of_stable_diffusion_1_5() -> None:
    sizes = Sizes()
    assert (len(unet_shapes(sizes)), count(unet_shapes(sizes))) == (686, 859_520_964)
    assert (len(vae_shapes(sizes)), count(vae_shapes(sizes))) == (248, 83_653_863)
    assert (len(clip_shapes(sizes)), count(clip_shapes(sizes))) == (196, 123_060_480)
    assert len(checkpoint_shapes(sizes)) == 686 + 248 + 196
