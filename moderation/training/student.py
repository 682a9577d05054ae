"""The network in training: the service's own modules, run on whole batches of lessons.

Two things differ from serving, and neither changes a value. Where a picture's global crop equals its only local crop,
the tower runs it once. Attention runs over posts padded to one length, which is faster with gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from moderation.models.phi3 import preprocessing
from moderation.models.phi3.network import (
    SHORT,
    TOWER,
    LongRope,
    Phi3Config,
    Phi3Network,
)
from moderation.models.phi3.preprocessing import Crops
from moderation.models.phi3.template import Phi3Template
from moderation.models.shared import checkpoint, template, tree
from moderation.models.shared.clip import ClipVision
from moderation.models.shared.decoder import Attend
from moderation.models.shared.tokenizer import Tokenizer
from moderation.models.shared.tree import Packed
from moderation.policies import prompts
from moderation.training import lessons, words
from moderation.training.lessons import INDEX, UNCLEAR, Lesson, Shelf
from moderation.training.world import GROUPS, HELD_OUT_GROUPS, MADE_UP, THINGS
from moderation.types import Content, Question

FACTS = 4
PLACEHOLDER = Image.new("RGB", (1, 1))  # the prompt only counts pictures


class Student(nn.Module):
    """The network, its tokenizer, and the parameters that only training needs."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = Phi3Network(checkpoint.parse(folder / checkpoint.CONFIG, Phi3Config))
        _initialise(self.network)
        tie_queries_to_keys(self.network)
        self.scale = nn.Parameter(torch.tensor(0.2))  # of a picture token's likeness to a name
        self.kinship = nn.Parameter(torch.tensor(0.2))  # of a word's likeness to a word
        self.nothing = nn.Parameter(torch.zeros(2))  # the likeness of "no thing" and "no group"
        self.tokenizer = Tokenizer(folder)
        self.yes, self.no = self.tokenizer.word("Yes"), self.tokenizer.word("No")
        self._things, self._groups, made_up = words.names(self.tokenizer)
        named = zip([*INDEX, *GROUPS, *MADE_UP], [*self._things, *self._groups, *made_up], strict=True)
        self._subject_of = {id: subject for subject, ids in named for id in ids}
        self.clues = nn.Linear(words.HIDDEN, FACTS)
        kin = [
            (id, list(GROUPS).index(thing.group)) for thing, ids in zip(THINGS, self._things, strict=True) for id in ids
        ]
        self._kin = [id for id, _ in kin], [group for _, group in kin]
        self._group_of = torch.tensor([list(GROUPS).index(thing.group) for thing in THINGS])
        self._template = Phi3Template(self.tokenizer)

    @property
    def tower(self) -> ClipVision:
        tower = self.network.model.vision_embed_tokens.img_processor["vision_model"]
        assert isinstance(tower, ClipVision)  # noqa: S101 - what ModuleDict forgets
        return tower

    def initialise_tower(self, shelf: Shelf) -> None:
        """Sets the tower's patch filters to the whitened principal components of patches of the shelf's pictures.

        Position embeddings become waves, which make near positions alike. Random values would have to learn both.
        """
        vision = self.network.config.tower
        sample = slice(0, None, max(1, len(shelf.pixels) // 1000))
        crops = np.asarray(shelf.pixels[sample]).astype(np.float64) / 255
        crops = (crops - np.array(lessons.MEAN)[:, None, None]) / np.array(lessons.STD)[:, None, None]
        grid = crops.reshape(len(crops), 3, vision.grid, vision.patch, vision.grid, vision.patch)
        patches = grid.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * vision.patch**2)
        values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
        kept = vectors[:, ::-1][:, : vision.hidden] / np.sqrt(values[::-1][: vision.hidden] + 0.1)
        embeddings = self.tower.embeddings
        with torch.no_grad():
            embeddings.position_embedding.weight[1:] = _waves(vision.grid, vision.hidden)
            filters = embeddings.patch_embedding.weight
            filters.copy_(torch.from_numpy(kept.T.copy()).view_as(filters))

    def embed_images(
        self, shelf: Shelf, pictures: Sequence[int], *, light: bool = False, patched: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """Features of pictures of the shelf, [tokens, hidden] each, and the labels of all their tokens.

        light: change brightness and colours a little. patched: give half of the pictures parts of others' backgrounds.
        """
        spans = [(int(shelf.first[picture]), int(shelf.first[picture + 1])) for picture in pictures]
        pixels = torch.from_numpy(np.concatenate([shelf.pixels[start:stop] for start, stop in spans]))
        pixels = pixels.to(self.network.device).float() / 255
        if patched:
            pixels = _patched(
                pixels, torch.from_numpy(np.stack([shelf.labels[picture] for picture in pictures])), spans
            )
        if light:
            counts = torch.tensor([stop - start for start, stop in spans])
            gain = (1 + 0.15 * torch.randn(len(spans), 3, 1, 1)).repeat_interleave(counts, 0).to(pixels)
            shift = (0.05 * torch.randn(len(spans), 3, 1, 1)).repeat_interleave(counts, 0).to(pixels)
            pixels = ((pixels - 0.5) * gain + 0.5 + shift).clamp(0, 1)
        mean, std = (torch.tensor(values).to(pixels)[:, None, None] for values in (lessons.MEAN, lessons.STD))
        vision = self.network.model.vision_embed_tokens
        features = vision.merge(self.tower((pixels - mean) / std))
        rows = []
        for (rows_, cols), part in zip(
            shelf.grid[list(pictures)].tolist(),
            torch.split(features, [stop - start for start, stop in spans]),
            strict=True,
        ):
            crops = part if len(part) > 1 else part.expand(2, -1, -1, -1)
            rows.append(vision.arrange(crops, Crops(pixels[:0], rows_, cols, vision.side)))
        projected = vision.img_projection(torch.cat(rows))
        labels = [shelf.labels[picture, : len(row)] for picture, row in zip(pictures, rows, strict=True)]
        return list(torch.split(projected, [len(row) for row in rows])), torch.from_numpy(np.concatenate(labels))

    def grounding(self, features: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of naming what stands in each picture token's place.

        Each token is compared with the decoder's word embeddings of all things and of all groups, so that a shown thing
        becomes like a mentioned thing. The words of things are compared with those of groups in the same way.
        """
        clear = labels != UNCLEAR
        labels = labels[clear].to(self.network.device)
        tokens = torch.cat(list(features))[clear.to(self.network.device)].float() * self.scale
        embed = self.network.model.embed_tokens.weight
        loss = tokens.new_zeros(())
        kinds = (self._things, labels, 0), (self._groups, self._grouped(labels), 1)
        for forms, targets, kind in kinds:
            chosen = [ids[int(torch.randint(len(ids), ()))] for ids in forms]
            logits = functional.linear(tokens, embed[chosen])
            logits = torch.cat([self.nothing[kind].expand(len(logits), 1) * 1.0, logits], dim=1)
            weight = torch.ones(logits.shape[1], device=logits.device)
            weight[0] = 0.3
            loss = loss + functional.cross_entropy(logits, targets + 1, weight)
        groups = [ids[int(torch.randint(len(ids), ()))] for ids in self._groups]
        words_, kin = (torch.tensor(ids, device=embed.device) for ids in self._kin)
        return loss + functional.cross_entropy(functional.linear(embed[words_] * self.kinship, embed[groups]), kin)

    def raise_words(self) -> None:
        """Makes the embeddings three times as large without changing any likeness.

        The pictures' tokens have grown in training, and the decoder's layers must not drown a word.
        """
        with torch.no_grad():
            self.network.model.embed_tokens.weight.mul_(3)
            self.scale.div_(3)
            self.kinship.div_(9)

    def recognised(self, features: Sequence[Tensor], labels: Tensor) -> float:
        """The share of picture tokens with a thing in their place that are nearest to its name."""
        has_thing = (labels >= 0).to(self.network.device)
        names = self.network.model.embed_tokens.weight[[ids[0] for ids in self._things]]
        guess = functional.linear(torch.cat(list(features))[has_thing].float(), names).argmax(1)
        return float((guess == labels.to(guess)[has_thing]).float().mean())

    def _grouped(self, labels: Tensor) -> Tensor:
        group = self._group_of.to(labels.device)[labels.clamp(min=0)]
        return torch.where(labels < 0, labels, group)

    def read(self, shelf: Shelf, lesson: Lesson) -> tree.Tree:
        """The token ids of a lesson, as the classifier makes them."""
        questions = [Question("", policy.prose) for policy in lesson.policies]
        prompt = prompts.render(Content(lesson.text, (PLACEHOLDER,) * len(lesson.pictures), ""), questions)
        side = self.network.config.crop_side
        slots = [preprocessing.tokens(rows, cols, side) for rows, cols in shelf.grid[list(lesson.pictures)].tolist()]
        shared = [id for _, ids in template.runs(self._template, prompt.shared, slots) for id in ids]
        return tree.Tree(tuple(shared), tuple(tuple(self._template.question(text)) for text in prompt.branches))

    def facts(self, made: Sequence[Lesson], trees: Sequence[tree.Tree]) -> tuple[Tensor, Tensor]:
        """Two tensors about the tokens that name a thing or a group, in the post or in a policy.

        int64 [n]: their places in the packed trees. float32 [n, FACTS]: whether the post shows, mentions, offers and
        denies the thing. Held-out groups are left out.
        """
        places: list[int] = []
        known: list[tuple[bool, ...]] = []
        start = 0
        for lesson, ids_of in zip(made, trees, strict=True):
            truth = lesson.truth
            for rule, ids in [(None, ids_of.shared), *zip(lesson.rules, ids_of.branches, strict=True)]:
                for place, id in enumerate(ids, start):
                    subject = self._subject_of.get(id)
                    if subject is not None and subject not in HELD_OUT_GROUPS:
                        meaning = rule.meaning(subject) if rule else (subject,)
                        denies = not truth.denied.isdisjoint(meaning)
                        places.append(place)
                        known.append((truth.shows(*meaning), truth.mentions(*meaning), truth.offers(*meaning), denies))
                start += len(ids)
        device = self.network.device
        return torch.tensor(places, device=device), torch.tensor(known, dtype=torch.float32, device=device)

    def answer(
        self, trees: Sequence[tree.Tree], features: Sequence[Tensor], places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits over the vocabulary [questions, vocabulary], and logits of the facts at `places` [n, FACTS].

        Facts are read before the last layer, which has to carry them to the answer's place.
        """
        network = self.network
        packed = tree.pack(trees, network.device)
        hidden = network.model.embed_tokens(packed.ids.clamp(min=0))
        if features:
            slots = (packed.ids < 0).nonzero()[:, 0]
            hidden = hidden.index_copy(0, slots, torch.cat(list(features)).to(hidden.dtype))
        rotary = LongRope.of(network.config, network.device).at(packed, [SHORT] * len(trees), hidden.dtype)
        attend = padded(packed)
        *before, last = network.model.layers
        for layer in before:
            hidden = layer(hidden, rotary, attend)
        named = hidden[places] if places is not None else hidden[:0]
        clues: Tensor = self.clues(functional.rms_norm(named, hidden.shape[-1:]))
        return network.logits(last(hidden, rotary, attend)[packed.scored]), clues

    def save(self, folder: Path) -> None:
        """Writes the weights into the config's folder, in the published layout.

        The family does not use the tower's last layer and its last norm, which hold constants here.
        """
        tensors = {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}
        run = self.network.config.img_processor.layers
        for name in [name for name in tensors if f".encoder.layers.{run - 1}." in name]:
            tensors[name.replace(f".layers.{run - 1}.", f".layers.{run}.")] = torch.zeros_like(tensors[name])
        for end in ("weight", "bias"):
            tensors[f"{TOWER}post_layernorm.{end}"] = torch.full((words.TOWER,), float(end == "weight"))
        halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in sorted(tensors.items())}
        save_file(halves, folder / checkpoint.WEIGHTS, metadata={"format": "pt"})


def _initialise(network: Phi3Network) -> None:
    depth = network.config.num_hidden_layers
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if "norm" in name or "layrnorm" in name:
                parameter.fill_(float(name.endswith("weight")))
            elif name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("embed_tokens.weight"):
                parameter.normal_(std=0.5)
            elif parameter.ndim == 2 and "embedding" not in name and not name.startswith("lm_head"):
                parameter.normal_(std=parameter.shape[1] ** -0.5)
                if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
                    parameter.mul_((2 * depth) ** -0.5)
            elif "patch_embedding" in name:
                parameter.normal_(std=math.prod(parameter.shape[1:]) ** -0.5)
            else:
                parameter.normal_(std=0.02)


def _patched(pixels: Tensor, labels: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Gives pictures of one crop parts of each other's backgrounds, at token places where neither shows a thing.

    So a thing is learned on backgrounds that no picture has. Half of all crops also show another one faintly.
    labels: [pictures, PLACES].
    """
    side = lessons.SIDE // lessons.TOKEN
    counts = torch.tensor([stop - start for start, stop in spans])
    single = (counts == 1).nonzero()[:, 0]
    at = (counts.cumsum(0) - counts)[single].to(pixels.device)
    rows = labels[single, : side * (side + 1)].view(-1, side, side + 1)  # the last of each row is a separator
    empty = rows[:, :, :side] == lessons.NOTHING
    other = torch.randperm(len(single))
    taken = empty & empty[other] & (torch.rand(empty.shape) < 0.5) & (torch.rand(len(single), 1, 1) < 0.5)
    cells = taken.repeat_interleave(lessons.TOKEN, 1).repeat_interleave(lessons.TOKEN, 2)[:, None].to(pixels.device)
    pixels = pixels.index_copy(0, at, torch.where(cells, pixels[at[other.to(at.device)]], pixels[at]))
    faint = (torch.rand(len(pixels), 1, 1, 1) * 0.5 - 0.25).clamp(min=0).to(pixels)
    return pixels.lerp(pixels[torch.randperm(len(pixels)).to(pixels.device)], faint)


def _waves(grid: int, hidden: int) -> Tensor:
    """[grid * grid, hidden]: sines and cosines of row and column, of several wavelengths."""
    frequency = math.pi / grid * 1.5 ** torch.arange(hidden // 4)[None].clamp(max=6) * torch.rand(1, hidden // 4)
    angle = torch.arange(grid)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, cols = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return torch.cat([rows, cols], dim=-1).flatten(0, 1) * 0.7


def tie_queries_to_keys(network: Phi3Network) -> None:
    """Gives half of the decoder's heads equal query and key matrices, so that a token attends to similar tokens.

    A policy's words then attend to the same words of the post from the first step on.
    """
    for layer in network.model.layers:
        with torch.no_grad():
            query, key, _ = layer.get_parameter("self_attn.qkv_proj.weight").chunk(3)
            key[: len(key) // 2] = query[: len(query) // 2]


def padded(packed: Packed) -> Attend:
    """The same values as `attention.of_tokens`, in one go. All posts must have equally many branches."""
    device, spans = packed.ids.device, packed.spans
    count = len(spans[0].bounds) - 1
    trunk, trunk_there = _table([(span.start, span.bounds[0]) for span in spans])
    leaf, leaf_there = _table([branch for span in spans for branch in pairwise(span.bounds)])
    long, short = trunk.shape[1], leaf.shape[1]

    def bias(allowed: Tensor) -> Tensor:
        return torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf).to(device)

    first_mask = bias(torch.ones(long, long, dtype=torch.bool).tril())
    own_mask = bias(torch.ones(short, short, dtype=torch.bool).tril())
    before_mask = bias(trunk_there)[:, None, None, None]
    # the place of each token of the packed sequence among the outputs of the two
    inverse = torch.empty(len(packed.ids), dtype=torch.int64)
    inverse[trunk[trunk_there]] = trunk_there.flatten().nonzero()[:, 0]
    inverse[leaf[leaf_there]] = leaf_there.flatten().nonzero()[:, 0] + trunk.numel()
    inverse, trunk, leaf = inverse.to(device), trunk.to(device), leaf.view(len(spans), -1).to(device)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scaled = (query * query.shape[-1] ** -0.5).to(value.dtype), key.to(value.dtype), value
        first, second = (
            [part.index_select(0, at.flatten()).unflatten(0, at.shape).transpose(1, 2) for part in scaled]
            for at in (trunk, leaf)
        )
        out = torch.softmax(first[0] @ first[1].transpose(2, 3) + first_mask.to(value.dtype), dim=-1) @ first[2]
        asked, keys, values = (part.unflatten(2, (count, short)) for part in second)
        before = (second[0] @ first[1].transpose(2, 3)).unflatten(2, (count, short)) + before_mask.to(value.dtype)
        own = asked @ keys.transpose(3, 4) + own_mask.to(value.dtype)
        shares = torch.softmax(torch.cat([before, own], dim=-1), dim=-1)
        ends = shares[..., :long].flatten(2, 3) @ first[2] + (shares[..., long:] @ values).flatten(2, 3)
        return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in (out, ends)]).index_select(0, inverse)

    return attend


def _table(spans: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """[spans, longest] twice: places in the packed sequence, padded with the first, and where there is no padding."""
    lengths = torch.tensor([stop - start for start, stop in spans])
    place = torch.arange(int(lengths.max()))
    there = place < lengths[:, None]
    return torch.tensor([start for start, _ in spans])[:, None] + place * there, there
