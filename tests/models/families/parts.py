"""Parts of tiny checkpoints that several families share: tokenisers, encoders of text, a VAE."""

from typing import Any

WORDS = ["a", "bold", "thin", "red", "blue", "disc", "square", "left", "upright", "7", "3"]
WIDTH, LENGTH = 32, 7
"""Of hidden states of text, and of the padded text."""


def tokenizer(length: int = LENGTH) -> Any:
    """Of words, with an end token, as CLIP's and T5's have."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = {word: number for number, word in enumerate(["[PAD]", "[END]", "[UNK]", *WORDS])}
    core = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]", model_max_length=length
    )


def clip(*, width: int = 16, projection: int = 16, pooled: bool = True, length: int = LENGTH) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings = CLIPTextConfig(
        vocab_size=32, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=projection, max_position_embeddings=length, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(settings)


def t5(width: int = WIDTH, kind: str = "T5EncoderModel") -> Any:
    import transformers

    model = getattr(transformers, kind)
    return model(
        model.config_class(
            vocab_size=32, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
            pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def vae(channels: int = 4, **words: Any) -> Any:
    """Of factor 2."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        **{
            "latent_channels": channels, "block_out_channels": (4, 4), "norm_num_groups": 2, "scaling_factor": 1.5,
            "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        } | words
    )  # fmt: skip


TEXT = "t"
"""What stands for a word of a template."""


def chat(before: str, count: int, *, end: str) -> Any:
    """A tokeniser of words to which a template's text `before` the prompt, a regular expression, is `count` tokens."""
    from tokenizers import Regex, normalizers

    made = tokenizer(length=512)
    core = made.backend_tokenizer
    core.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(before), f"{TEXT} " * count), normalizers.Replace(end, f" {TEXT} ")]
    )
    return made


def language_model(kind: str, **words: Any) -> Any:
    """A decoder of text of the class `kind` of transformers."""
    import transformers

    told = {
        "vocab_size": 32, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 640,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    } | words  # fmt: skip
    model = getattr(transformers, kind)
    return model(model.config_class(**told))


def qwen_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 32, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 640, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    tokens = {"image_token_id": 29, "video_token_id": 30, "vision_start_token_id": 27, "vision_end_token_id": 28}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens))


def conversing() -> Any:
    """A tokeniser of words with a template for conversations: what people say between two words."""
    made = tokenizer(length=512)
    made.chat_template = (
        "{% for each in messages %}{% if each.role == 'user' %}"
        "{% if each.content is string %}{% set said = each.content %}{% else %}{% set said = each.content[0].text %}"
        "{% endif %}"
        "bold {{ said }} thin{% endif %}{% endfor %}"
    )
    return made


def mistral(**words: Any) -> Any:
    """Mistral 3, which can see, but is shown nothing."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = {
        "model_type": "mistral", "vocab_size": 32, "intermediate_size": 32, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 640, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 1, **words,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    settings = Mistral3Config(text_config=text, vision_config=vision, image_token_index=29)
    return Mistral3ForConditionalGeneration(settings)
