"""Diffusers' own pipelines of Lumina 2 and its like, over the files of tests; see `more_peers.py`.

Tokenizers that come with a model are made here by transformers, from the pieces of `words.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from scripts.tiny_models import words
from tests.models.families import peers


def gemma_tokenizer() -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer
    from transformers.tokenization_utils_tokenizers import generate_merges

    pieces = words.pieces()
    vocabulary = {text: number for number, (text, _, _) in enumerate(pieces)}
    scores = {text: score for text, score, kind in pieces if kind == words.NORMAL}
    tokenizer = GemmaTokenizer(
        vocab=vocabulary, merges=generate_merges(vocabulary, scores), padding_side="right"
    )
    tokenizer.add_tokens([text for text, _, kind in pieces if kind == words.NAMED])
    # In the published tokenizer.json; one made from a vocabulary has none.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return tokenizer


def gemma2(file: Path) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
    )
    model = Gemma2Model(config).eval()
    tensors = {k.removeprefix("model."): v for k, v in load_file(file).items()}
    model.load_state_dict({k: v for k, v in tensors.items() if k != "spiece_model"})
    return model


def lumina2(files: Mapping[str, Path], folder: Path) -> Any:
    """The pipeline over `lumina2`, `gemma2` and `ae`."""
    import inspect

    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )
    from diffusers.loaders import single_file_utils

    # Its converter knows the real width only.
    source = inspect.getsource(single_file_utils.convert_lumina2_to_diffusers)
    source = source.replace("q_dim = 2304", "q_dim = 48").replace("v_dim = 768", "v_dim = 24")
    names: dict[str, Any] = dict(vars(single_file_utils))
    exec(source, names)
    transformer = Lumina2Transformer2DModel(
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=64,
        cap_feat_dim=32,
        axes_dim_rope=(8, 8, 8),
    ).eval()
    transformer.load_state_dict(names["convert_lumina2_to_diffusers"](load_file(files["lumina2"])))
    return Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=peers.network(AutoencoderKL, peers.KL16, files["ae"], folder / "vae"),
        text_encoder=gemma2(files["gemma2"]),
        tokenizer=gemma_tokenizer(),
        transformer=transformer,
    )
