"""The settings of a network; every key must be given, configs/models/ has complete examples."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Positive = Annotated[int, Field(gt=0)]


class EncoderConfig(BaseModel):
    """Which timm CNN, and where in it evidence and transformer read."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str  # any timm CNN that offers feature stages
    options: dict[str, JsonValue]  # passed on to timm
    pretrained: bool | str  # True: timm's weights; False: random; str: a safetensors file
    evidence_stage: Annotated[int, Field(ge=0)]  # timm feature stage
    evidence_block: Annotated[int, Field(ge=0)] | None  # block within it; None: the stage's end
    transformer_stage: Annotated[int, Field(ge=0)]  # timm feature stage
    token_stride_px: Positive  # side of one evidence token in picture pixels
    max_receptive_field: Annotated[float, Field(gt=0)]  # share of the picture's width
    allow_leaky: bool  # use an encoder whose evidence is not local all the same

    @model_validator(mode="after")
    def _transformer_is_not_above_evidence(self) -> "EncoderConfig":
        if self.transformer_stage < self.evidence_stage:
            raise ValueError(
                f"transformer_stage {self.transformer_stage} comes before evidence_stage "
                f"{self.evidence_stage}; the transformer must read the same stage or a deeper one"
            )
        return self


class TransformerConfig(BaseModel):
    """Size of the transformer that reads the deeper stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    layers: Positive
    heads: Positive
    mlp_ratio: Annotated[float, Field(gt=0)]


class ModelConfig(BaseModel):
    """Everything :func:`common.model.network.build_network` needs besides tasks and seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    image_size_px: Positive  # side of the pictures that locality is checked for
    encoder: EncoderConfig
    width: Positive  # channels of a token, d
    transformer: TransformerConfig
    evidence_from: Literal["cnn", "transformer"]
    gate_from: Literal["transformer", "local"]
    context_labels: dict[str, tuple[str, ...]]  # task -> logits with an additive context part
    concepts: dict[str, bool]  # task -> whether it has heads for its signs (common/concepts.py)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ModelConfig":
        if self.width % self.transformer.heads:
            raise ValueError(
                f"width {self.width} must be a multiple of {self.transformer.heads} heads"
            )
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4 (2-D sines and cosines)")
        if self.image_size_px % self.encoder.token_stride_px:
            raise ValueError(
                f"image_size_px {self.image_size_px} must be a multiple of "
                f"encoder.token_stride_px {self.encoder.token_stride_px}"
            )
        return self
