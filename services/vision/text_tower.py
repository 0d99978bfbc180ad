"""The text tower of a contrastive network (CLIP's): texts into the space that its images are in.

Radford et al. (2021), "Learning Transferable Visual Models From Natural Language Supervision". Tensors have the names
that open_clip gives them.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from services.kit import pulse
from services.vision.packs import TEXT_PREFIX, PackUnusable, TextSpec

TOKENIZER = "tokenizer"  # key of a file's metadata: JSON of the library `tokenizers`
IMAGE_PROJECTION = "image_projection"  # [embedding, features]: what maps an image's features into the shared space
MLP_RATIO = 4
BATCH = 64  # texts


class TextTooLong(ValueError):
    """A text has more tokens than the tower takes; the message names both."""


class TextNetwork(nn.Module):
    """A causal transformer over tokens."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width)
        self.positional_embedding = nn.Parameter(torch.empty(spec.context_length, spec.width))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(_Block(spec) for _ in range(spec.layers))})
        self.ln_final = nn.LayerNorm(spec.width)
        self.text_projection = nn.Parameter(torch.empty(spec.width, spec.embedding))

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """Tokens [n, length] into embeddings [n, embedding]: what the tower has read at each text's last token."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.transformer["resblocks"].children():
            x = block(x)
        return self.ln_final(x[torch.arange(len(x)), last]) @ self.text_projection


class _Block(nn.Module):
    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        width, hidden = spec.width, MLP_RATIO * spec.width
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, spec.heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        gelu = _QuickGELU() if spec.quick_gelu else nn.GELU()
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, hidden), gelu=gelu, c_proj=nn.Linear(hidden, width)))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask, is_causal=True)[0]
        return x + self.mlp(self.ln_2(x))


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TextTower:
    """Texts into unit vectors, and what maps an image's features into their space."""

    def __init__(self, state: Mapping[str, Tensor], tokenizer: str, spec: TextSpec) -> None:
        """From tensors named as in a file; ValueError or RuntimeError if they or the tokenizer do not fit."""
        from tokenizers import Tokenizer  # noqa: PLC0415 - only packs with a text tower need it

        try:
            self._tokenizer = Tokenizer.from_str(tokenizer)
        except Exception as fault:  # the library raises nothing narrower
            raise ValueError(f"its tokenizer cannot be read: {fault}") from fault
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        tensors = {name.removeprefix(TEXT_PREFIX): tensor.float() for name, tensor in state.items()}
        if (projection := tensors.pop(IMAGE_PROJECTION, None)) is None:
            raise ValueError(f"it has no tensor {TEXT_PREFIX}{IMAGE_PROJECTION}")
        self.image_projection = projection
        self.spec = spec
        with torch.device("meta"):
            self._network = TextNetwork(spec)
        self._network.load_state_dict(tensors, strict=True, assign=True)
        self._network.eval().requires_grad_(False)
        self._require_vocabulary()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """[texts, embedding], rows of unit length; TextTooLong."""
        tokens = [self._tokens(text) for text in texts]
        parts = [self._embedded(tokens[start : start + BATCH]) for start in range(0, len(tokens), BATCH)]
        return nn.functional.normalize(torch.cat(parts), dim=1)

    def _embedded(self, tokens: list[list[int]]) -> Tensor:
        pulse.beat()
        last = torch.tensor([len(text) - 1 for text in tokens])
        batch = torch.zeros(len(tokens), int(last.max()) + 1, dtype=torch.long)
        for row, text in zip(batch, tokens, strict=True):
            row[: len(text)] = torch.tensor(text)  # what follows the last token is not read, as attention is causal
        return self._network(batch, last)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text).ids
        if len(tokens) > self.spec.context_length:
            raise TextTooLong(f"{text!r} has {len(tokens)} tokens, and at most {self.spec.context_length} are read")
        return tokens

    def _require_vocabulary(self) -> None:
        """Embeddings are pooled at the last token, the one with the highest number."""
        count, tokens = self._tokenizer.get_vocab_size(), self._tokens("a")
        if count != self.spec.vocabulary:
            raise ValueError(f"its tokenizer has {count} tokens, and its text tower {self.spec.vocabulary}")
        if tokens[-1] != count - 1:
            raise ValueError("its tokenizer does not end texts with its last token, as CLIP's does")


def read_text(path: Path) -> tuple[dict[str, Tensor], str]:
    """(tensors of the text tower, tokenizer) in a file of weights."""
    with safetensors.safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(TEXT_PREFIX)]  # noqa: SIM118 - not a dictionary
        return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get(TOKENIZER, "")


def load_text_tower(path: Path, spec: TextSpec) -> TextTower:
    """The text tower in a file of weights; PackUnusable if it is not what its description says."""
    try:
        return TextTower(*read_text(path), spec)
    except (ValueError, RuntimeError, safetensors.SafetensorError) as fault:
        problem = " ".join(str(fault).split())  # torch lists tensors in lines
        raise PackUnusable(
            f"{path}: its text tower is broken: {problem}. Make the pack again with `sightline weights add`."
        ) from fault
