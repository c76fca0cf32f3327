"""A Large Concept Model as a transformers class: normaliser, model and decoder in one folder that opens again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from superweights.errors import SuperweightsError
from superweights.lab.concepts.config import ConceptConfig
from superweights.lab.concepts.decoder import ConceptDecoder
from superweights.lab.concepts.layers import DenoiserLayer
from superweights.lab.concepts.models import BaseLcm, OneTowerLcm, TwoTowerLcm
from superweights.lab.concepts.noise import Guidance, NoiseSchedule
from superweights.lab.concepts.normalizer import ConceptNormalizer
from superweights.lab.concepts.quantized import QuantLcm, ResidualQuantizer

Lcm = BaseLcm | OneTowerLcm | TwoTowerLcm | QuantLcm


@dataclass
class ConceptOutput(ModelOutput):
    """What reading documents gives."""

    loss: Tensor | None = None
    """The loss of the kind, of normalised vectors (see the models)."""


class ConceptModel(PreTrainedModel):
    """`AutoModel.from_pretrained` opens it after `import superweights`; vectors go in and come out as the encoder makes
    them."""

    config_class = ConceptConfig
    main_input_name = "vectors"
    _no_split_modules = ["CausalBlock", "DenoiserLayer"]  # noqa: RUF012

    def __init__(self, config: ConceptConfig):
        super().__init__(config)
        self.normalizer = ConceptNormalizer(config.concept)
        self.lcm = _made(config)
        self.decoder = None if config.decoder is None else ConceptDecoder(config.concept, **config.decoder)
        self.post_init()

    def fit_scale(self, vectors: Tensor) -> ConceptModel:
        """Take the normaliser, and the books of a Quant, from training vectors `[n, C]`; returns itself."""
        self.normalizer.fit(vectors)
        if isinstance(self.lcm, QuantLcm):
            found = ResidualQuantizer.fitted(
                self.normalizer.normalize(vectors), self.config.books, self.config.units
            )
            self.lcm.quantizer.books.copy_(found.books)
        return self

    def forward(self, vectors: Tensor, seen: Tensor | None = None, **kwargs: Any) -> ConceptOutput:
        """The loss of documents `[B, S, C]`, of which the places `seen [B, S]` count."""
        return ConceptOutput(loss=self.lcm.loss(self.normalizer.normalize(vectors), seen))

    @torch.no_grad()
    def next_vectors(
        self,
        documents: Tensor,
        lengths: Tensor,
        guidance: Guidance | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The next vectors `[B, C]` of documents `[B, S, C]`, of which the first `lengths [B]` places count.

        The diffusion models make them of `noise [B, C]`, drawn where it is None; Quant takes the likeliest units.
        """
        x = self.normalizer.normalize(documents)
        if isinstance(self.lcm, BaseLcm):
            found = self.lcm(x)[torch.arange(len(x)), lengths - 1]
        elif isinstance(self.lcm, QuantLcm):
            found = self.lcm.sample_next(x, lengths)
        else:
            found = self.lcm.sample_next(x, lengths, guidance or Guidance(), noise)
        return self.normalizer.denormalize(found)

    def write(self, vectors: Tensor, most: int = 200) -> list[str]:
        """The texts of vectors `[B, C]` by the trained decoder, at length 1 as it was trained.

        Raises `SuperweightsError` for a model without one.
        """
        if self.decoder is None:
            raise SuperweightsError(
                "This concept model has no decoder, so its vectors are no text.",
                hint="look up the nearest stored sentence, or train one (superweights.lab.concepts.decoding).",
            )
        return self.decoder.write(nn.functional.normalize(vectors, dim=-1), len(vectors), most)

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """As torch begins its layers; the steering of a denoiser at zero, so that each layer begins as the identity."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, ConceptNormalizer):
            init.zeros_(module.center)
            init.ones_(module.scale)
        elif isinstance(module, ResidualQuantizer):
            init.zeros_(module.books)
        elif isinstance(module, ConceptDecoder):
            init.zeros_(module.nothing)
            init.zeros_(module.hole)
        elif isinstance(module, DenoiserLayer):
            for parameter in module.adaln.parameters():
                init.zeros_(parameter)


def _made(config: ConceptConfig) -> Lcm:
    """The model of the config's kind."""
    c, schedule = config, NoiseSchedule(**config.schedule)
    if c.kind == "base":
        return BaseLcm(c.concept, c.width, c.layers, c.heads)
    if c.kind == "one_tower":
        return OneTowerLcm(c.concept, c.width, c.layers, c.longest, schedule)
    if c.kind == "two_tower":
        return TwoTowerLcm(c.concept, c.width, c.context_layers, c.layers, c.heads, schedule)
    quantizer = ResidualQuantizer(torch.zeros(c.books, c.units, c.concept))
    continuous = c.kind == "quant_continuous"
    return QuantLcm(quantizer, c.width, c.context_layers, c.layers, c.heads, continuous=continuous)


AutoModel.register(ConceptConfig, ConceptModel, exist_ok=True)
