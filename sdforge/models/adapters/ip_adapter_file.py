"""What an IP-Adapter file is, read off the names and shapes of its tensors. No torch here.

The kinds that see through CLIP alone are known: the first one, which sees a picture as one vector,
Plus and Full Face, which see its places (Ye et al. 2023, arXiv:2308.06721). Any width works.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader

_ATTENTION = "ip_adapter."
_PICTURE = "image_proj."
_FAMILIES = {1024: "sd2", 2048: "sdxl"}
_FULL = f"{_PICTURE}proj.3.weight"
# What is in files of other kinds, which see who a face is by a network that is not here.
_FACE_KINDS = {
    f"{_PICTURE}perceiver_resampler.proj_in.weight": "FaceID Plus",
    f"{_PICTURE}norm.weight|{_PICTURE}proj.2.weight": "FaceID",
}


@dataclass(frozen=True, kw_only=True)
class IpAdapterShape:
    """What shapes tell.

    Attributes:
        is_plus: it sees a picture's places.
        tokens: how many words it makes of a picture; 0 for one of each place.
        seen: width of the vectors that it takes from CLIP.
        context: width of the words, the model's text states'.
        attentions: by number in the file, the width of the attention.
    """

    is_plus: bool
    tokens: int
    seen: int
    context: int
    attentions: dict[int, int]

    @property
    def family(self) -> str:
        """The family of models that has text states of such a width."""
        return _FAMILIES.get(self.context, "sd1")

    @property
    def is_full(self) -> bool:
        """Whether it makes a word of each place."""
        return self.is_plus and not self.tokens

    @property
    def reason(self) -> str:
        """The signs, as a sentence."""
        kind = "IP-Adapter Plus" if self.is_plus else "IP-Adapter"
        words = f"{self.tokens} words"
        if self.is_full:
            kind, words = "IP-Adapter Full Face", "a word for each place,"
        return (
            f"{kind} of {words} of width {self.context} for {len(self.attentions)} "
            f"attentions, seeing CLIP's {self.seen} numbers: {self.family}"
        )


def is_ip_adapter(header: CheckpointHeader) -> bool:
    """Say whether a file's tensors have an IP-Adapter's names."""
    return header.has_prefix(_ATTENTION) or header.has_prefix(_PICTURE)


def ip_adapter_shape(header: CheckpointHeader) -> IpAdapterShape:
    """Return what kind of IP-Adapter a file is.

    Raises:
        MissingModel: parts of it are missing.
        UnsupportedCheckpoint: it is of a kind that this version cannot run.
    """
    shapes = {name: info.shape for name, info in header.tensors.items()}
    for signs, kind in _FACE_KINDS.items():
        if all(sign in shapes for sign in signs.split("|")):
            raise UnsupportedCheckpoint(
                f"{header.path.name} is an IP-Adapter {kind}: it sees who a face is by "
                "InsightFace's recognition network, which this version does not run; take one "
                "that sees faces through CLIP, such as ip-adapter-plus-face or "
                "ip-adapter-full-face"
            )
    try:
        attentions = {
            int(name.split(".")[1]): shape[0]
            for name, shape in shapes.items()
            if name.startswith(_ATTENTION) and name.endswith(".to_k_ip.weight")
        }
        context = shapes[f"{_ATTENTION}{min(attentions)}.to_k_ip.weight"][1]
        if _FULL in shapes:
            seen = shapes[f"{_PICTURE}proj.0.weight"][1]
            return IpAdapterShape(
                is_plus=True, tokens=0, seen=seen, context=context, attentions=attentions
            )
        latents = shapes.get(f"{_PICTURE}latents")
        if latents is not None:
            seen = shapes[f"{_PICTURE}proj_in.weight"][1]
            return IpAdapterShape(
                is_plus=True, tokens=latents[1], seen=seen, context=context, attentions=attentions
            )
        rows, seen = shapes[f"{_PICTURE}proj.weight"]
    except (KeyError, ValueError, IndexError) as error:
        raise MissingModel(
            f"the IP-Adapter in {header.path.name} is incomplete or damaged ({error})"
        ) from error
    return IpAdapterShape(
        is_plus=False, tokens=rows // context, seen=seen, context=context, attentions=attentions
    )
