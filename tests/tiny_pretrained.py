"""Folders of pretrained networks as the hub has them, tiny and random: what scores images is loaded from these."""

from pathlib import Path

import torch

from stages.core.rng import seeded

TOKENS = 16


def tokenizer():
    """CLIP's, with a letter a token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: place for place, word in enumerate(words)}, merges=[], pad_token="<|endoftext|>",
        model_max_length=TOKENS,
    )  # fmt: skip


def save_clip(folder: Path, seed: int = 0, size: int = 16) -> Path:
    """A CLIPModel with tokenizer and preprocessing."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = tokenizer()
    text = {
        "vocab_size": len(words), "max_position_embeddings": TOKENS, "projection_dim": 16,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    cfg = CLIPConfig(
        text_config=sizes | text,
        vision_config=sizes | {"image_size": size, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    with seeded(seed):
        CLIPModel(cfg).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )
    return folder


def save_head(file: Path, width: int = 16) -> list[torch.Tensor]:
    """The layers of an aesthetic predictor, as the published one has them; returns weight, bias, weight, bias."""
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(1)
    made = [torch.randn(*shape, generator=rng) for shape in ((8, width), (8,), (1, 8), (1,))]
    names = ("layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias")
    save_file(dict(zip(names, made, strict=True)), file)
    return made


def save_dinov2(folder: Path, seed: int = 0, size: int = 16) -> Path:
    """A Dinov2Model with preprocessing."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    cfg = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=size, patch_size=8)
    with seeded(seed):
        Dinov2Model(cfg).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )
    return folder


def save_detector(folder: Path, labels: list[str], size: int = 32) -> Path:
    """A YOLOS with preprocessing."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    named = dict(enumerate(labels))
    cfg = YolosConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=[size, size],
        patch_size=8, num_detection_tokens=6, id2label=named, label2id={name: place for place, name in named.items()},
    )  # fmt: skip
    with seeded(0):
        YolosForObjectDetection(cfg).save_pretrained(folder)
    YolosImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    return folder
