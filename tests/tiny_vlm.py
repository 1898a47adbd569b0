"""HPSv3 and ImageReward as they are published, tiny and random: what their rewards are loaded from."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from stages.core.rng import seeded
from stages.models.hpsv3 import ASKED, FILE

MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|endoftext|>")


def save_qwen2vl(folder: Path):
    """Qwen2-VL's configuration, tokenizer and preprocessing, without weights; an image is about 16 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLImageProcessorPil

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words.train_from_iterator([ASKED], trainer)
    words.add_special_tokens(list(MARKS))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in zip(("start", "end"), MARKS, strict=False)}
    text = {
        "vocab_size": len(tokenizer) + 7, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_window_layers": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        "bos_token_id": ids["start"], "eos_token_id": ids["end"],
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 56, "mlp_ratio": 2}
    Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
    ).save_pretrained(folder)  # fmt: skip
    Qwen2VLImageProcessorPil(patch_size=56).save_pretrained(folder)
    return len(tokenizer)


def save_hpsv3(root: Path) -> dict[str, torch.Tensor]:
    """`root/qwen2vl`, and `root/hpsv3` with its one file; returns that file's content."""
    from safetensors.torch import save_file
    from transformers import Qwen2VLConfig, Qwen2VLModel

    rows = save_qwen2vl(root / "qwen2vl") + 1
    cfg = Qwen2VLConfig.from_pretrained(root / "qwen2vl")
    cfg.text_config.vocab_size = rows
    with seeded(0):
        state = Qwen2VLModel(cfg).state_dict()
        head = nn.Sequential(nn.Linear(32, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 16), nn.ReLU())
        head.append(nn.Linear(16, 2))
    # Weights of transformers' own spread, 0.02, leave hardly anything of image and prompt after a few layers.
    content = {
        name.replace("language_model.", "model.", 1): (8 * w if w.dim() > 1 else w).bfloat16()
        for name, w in state.items()
    }
    content |= {f"rm_head.{name}": weight for name, weight in head.state_dict().items()}
    content["lm_head.weight"] = torch.zeros(rows, 32, dtype=torch.bfloat16)
    (root / "hpsv3").mkdir()
    save_file(content, root / "hpsv3" / FILE)
    return content


def save_image_reward(root: Path) -> dict[str, torch.Tensor]:
    """`root/bert`, with a letter a token, and `root/ImageReward.safetensors`; returns that file's content."""
    from safetensors.torch import save_file
    from transformers import BertTokenizer

    letters = [chr(place) for place in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    tokenizer.save_pretrained(root / "bert")
    rng = torch.Generator().manual_seed(0)
    wide, deep = 128, 64  # of vision, of text: heads of 64
    shapes = {
        "cls_token": (1, 1, wide), "pos_embed": (1, 5, wide), "patch_embed.proj.weight": (wide, 3, 16, 16),
        "patch_embed.proj.bias": (wide,), **_norm("norm", wide), **_norm("blocks.0.norm1", wide),
        **_norm("blocks.0.norm2", wide), **_linear("blocks.0.attn.qkv", wide, 3 * wide),
        **_linear("blocks.0.attn.proj", wide, wide), **_linear("blocks.0.mlp.fc1", wide, 96),
        **_linear("blocks.0.mlp.fc2", 96, wide),
    }  # fmt: skip
    content = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    shapes = {
        "word_embeddings.weight": (len(words) + 2, deep), "position_embeddings.weight": (40, deep),
        **_norm("LayerNorm", deep),
    }  # fmt: skip
    content |= {f"blip.text_encoder.embeddings.{name}": shape for name, shape in shapes.items()}
    for part, width in (("attention", deep), ("crossattention", wide)):
        at = f"blip.text_encoder.encoder.layer.0.{part}"
        content |= _linear(f"{at}.self.query", deep, deep) | _linear(f"{at}.self.key", width, deep)
        content |= _linear(f"{at}.self.value", width, deep) | _linear(f"{at}.output.dense", deep, deep)
        content |= _norm(f"{at}.output.LayerNorm", deep)
    at = "blip.text_encoder.encoder.layer.0"
    content |= _linear(f"{at}.intermediate.dense", deep, 80) | _linear(f"{at}.output.dense", 80, deep)
    content |= _norm(f"{at}.output.LayerNorm", deep)
    widths = (deep, 1024, 128, 64, 16, 1)
    for place, (low, high) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        content |= _linear(f"mlp.layers.{place}", low, high)
    content |= _linear("blip.vision_proj", wide, 8) | _linear("blip.text_proj", deep, 8)
    made = {
        name: torch.randn(*shape, generator=rng) / (1 if len(shape) == 1 else shape[-1] ** 0.5)
        for name, shape in content.items()
    }
    made["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(made, root / "ImageReward.safetensors")
    return made


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, low: int, high: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (high, low), f"{name}.bias": (high,)}
