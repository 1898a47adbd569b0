"""A text encoder whose words read their neighbours before they attend to all.

To bind a color to its object, attention has to learn which word stands beside which; convolutions begin with that.

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput
from torch import nn


@dataclass
class Read(BaseOutput):
    """What is read of prompts, under the names that transformers' encoders use."""

    last_hidden_state: torch.Tensor
    """[B, L, width]"""
    pooler_output: torch.Tensor
    """[B, width], the state at each prompt's end."""


class ConvolutionalTextEncoder(ModelMixin, ConfigMixin):
    """Two convolutions over the words, then transformer layers that see the whole prompt, its padding too."""

    @register_to_config
    def __init__(  # noqa: PLR0913, PLR0917 - what config.json holds
        self,
        vocab_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        max_length: int,
        kernel_size: int,
        end_id: int,  # noqa: ARG002 - kept in the configuration
    ) -> None:
        """`kernel_size`, which is odd, is how many words a convolution sees."""
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.places = nn.Parameter(0.3 * torch.randn(max_length, width))
        self.widen = nn.Conv1d(width, 2 * width, kernel_size, padding=kernel_size // 2)
        self.narrow = nn.Conv1d(2 * width, width, kernel_size, padding=kernel_size // 2)
        layer = nn.TransformerEncoderLayer(width, num_heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.attend = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids: torch.Tensor) -> Read:
        """Read tokens int64 [B, L]."""
        states = self.words(input_ids) + self.places
        states = states + self.narrow(nn.functional.gelu(self.widen(states.mT))).mT
        states = self.norm(self.attend(states))
        ends = (input_ids == self.config["end_id"]).int().argmax(dim=1)
        return Read(last_hidden_state=states, pooler_output=states[torch.arange(len(states)), ends])
