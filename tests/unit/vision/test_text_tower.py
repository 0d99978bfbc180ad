"""The text tower, against the implementation in transformers, and what is said about one that is broken."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from services.vision.packs import TEXT_PREFIX, PackUnusable, TextSpec
from services.vision.text_tower import IMAGE_PROJECTION, TOKENIZER, TextTooLong, TextTower, load_text_tower
from tests.support.contrastive import EMBEDDING, WIDTH, spec, text_state, tokenizer, tokenizer_json, tower

TEXTS = ("a photo of a red.", "an Image of Granny Smith's 2 apples", "naïve café", "x")


def published(activation: str) -> CLIPTextModelWithProjection:
    """A random tower of transformers'."""
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=40,
        projection_dim=EMBEDDING,
        hidden_act=activation,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPTextModelWithProjection(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def as_open_clip(model: CLIPTextModelWithProjection) -> dict[str, torch.Tensor]:
    """Its tensors as open_clip names them."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    out = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        **{f"ln_final.{kind}": state[f"final_layer_norm.{kind}"] for kind in ("weight", "bias")},
    }
    for layer in range(3):
        ours, theirs = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            three = [state[f"{theirs}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            out[f"{ours}attn.in_proj_{kind}"] = torch.cat(three)
            out[f"{ours}attn.out_proj.{kind}"] = state[f"{theirs}self_attn.out_proj.{kind}"]
            out[f"{ours}ln_1.{kind}"] = state[f"{theirs}layer_norm1.{kind}"]
            out[f"{ours}ln_2.{kind}"] = state[f"{theirs}layer_norm2.{kind}"]
            out[f"{ours}mlp.c_fc.{kind}"] = state[f"{theirs}mlp.fc1.{kind}"]
            out[f"{ours}mlp.c_proj.{kind}"] = state[f"{theirs}mlp.fc2.{kind}"]
    return out


def file_of(path: Path, state: dict[str, torch.Tensor], words: str) -> Path:
    named = {TEXT_PREFIX + name: tensor for name, tensor in state.items()}
    safetensors.torch.save_file(
        {**named, TEXT_PREFIX + IMAGE_PROJECTION: torch.zeros(2, 2), "image": torch.zeros(1)}, path, {TOKENIZER: words}
    )
    return path


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_texts_are_embedded_as_transformers_embeds_them(activation: str, tmp_path: Path) -> None:
    model, words = published(activation), tokenizer()
    with torch.inference_mode():
        wanted = [model(**words(text, return_tensors="pt")).text_embeds for text in TEXTS]
    expected = torch.nn.functional.normalize(torch.cat(wanted), dim=1)
    given = spec(layers=3, quick_gelu=activation == "quick_gelu")
    path = file_of(tmp_path / "weights.safetensors", as_open_clip(model), tokenizer_json())
    found = load_text_tower(path, given).embed(TEXTS)  # of different lengths in one batch
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    other = load_text_tower(path, spec(layers=3, quick_gelu=activation != "quick_gelu")).embed(TEXTS)
    assert (other - expected).abs().max() > 1e-4


def test_a_text_that_is_too_long_is_named_with_both_lengths() -> None:
    read = tower(text_state())
    assert read.embed(["a" * 38]).shape == (1, EMBEDDING)
    with pytest.raises(TextTooLong, match=r"'a{39}' has 41 tokens, and at most 40 are read"):
        read.embed(["fits", "a" * 39])


def test_the_tokenizer_in_a_file_may_not_cut_texts_short() -> None:
    words = tokenizer().backend_tokenizer
    words.enable_truncation(4)
    words.enable_padding(length=12)
    named = {TEXT_PREFIX + name: tensor for name, tensor in text_state().items()}
    read = TextTower({**named, TEXT_PREFIX + IMAGE_PROJECTION: torch.zeros(1)}, words.to_str(), spec())
    torch.testing.assert_close(read.embed(TEXTS), tower(text_state()).embed(TEXTS))


def without(name: str) -> dict[str, torch.Tensor]:
    state = text_state()
    del state[name]
    return state


@pytest.mark.parametrize(
    ("state", "words", "given", "problem"),
    [
        (without("ln_final.bias"), tokenizer_json(), spec(), "ln_final.bias"),
        ({**text_state(), "ln_final.bias": torch.zeros(3)}, tokenizer_json(), spec(), "ln_final.bias"),
        ({**text_state(), "ln_other": torch.zeros(3)}, tokenizer_json(), spec(), "ln_other"),
        (text_state(), tokenizer_json(), spec(layers=3), r"resblocks\.2"),
        (text_state(), "", spec(), "its tokenizer cannot be read"),
        (text_state(), '{"model": {}}', spec(), "its tokenizer cannot be read"),
        (text_state(), tokenizer_json([("a", "b")]), spec(), "its tokenizer has 515 tokens, and its text tower 519"),
    ],
)
def test_a_broken_text_tower_is_named_with_what_is_wrong(
    state: dict[str, torch.Tensor], words: str, given: TextSpec, problem: str, tmp_path: Path
) -> None:
    path = file_of(tmp_path / "weights.safetensors", state, words)
    with pytest.raises(PackUnusable, match=rf"(?s)weights\.safetensors: its text tower is broken: .*{problem}"):
        load_text_tower(path, given)
