"""The architectures that are known: their classes in transformers, and the settings that describe them, whoever wrote these down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from headwater.errors import UsageError, nearest
from headwater.fairseq import Checkpoint, conv_layers
from headwater.settings import truth


class Kind(NamedTuple):
    """Where transformers has a model: its classes, and the prefixes of its tensors where it is part of another."""

    model: str
    prefixes: tuple[str, ...]
    sdpa: bool = True


# `model_type` of a config.json -> the model.
KINDS = {
    "wav2vec2": Kind("Wav2Vec2Model", ("wav2vec2.",)),
    "hubert": Kind("HubertModel", ("hubert.",)),
    "wavlm": Kind("WavLMModel", ("wavlm.",), sdpa=False),
    "unispeech-sat": Kind("UniSpeechSatModel", ("unispeech_sat.",)),
    "unispeech": Kind("UniSpeechModel", ("unispeech.",)),
    "data2vec-audio": Kind("Data2VecAudioModel", ("data2vec_audio.",)),
    "wav2vec2-conformer": Kind("Wav2Vec2ConformerModel", ("wav2vec2_conformer.",)),
    "wav2vec2-bert": Kind("Wav2Vec2BertModel", ("wav2vec2_bert.",)),
    "whisper": Kind("WhisperEncoder", ("model.encoder.", "encoder.")),
}
# What a config.json could make transformers fetch or run.
_NEVER = {"auto_map", "attn_implementation", "_attn_implementation", "quantization_config", "_experts_implementation"}
# Parts and tables that are made before a file's tensors can show that they are too many, and numbers that no tensor shows.
_MOST = {
    "hidden_size": 100_000,
    "intermediate_size": 10**6,
    "encoder_ffn_dim": 10**6,
    "num_hidden_layers": 1000,
    "encoder_layers": 1000,
    "num_attention_heads": 1000,
    "encoder_attention_heads": 1000,
    "num_feat_extract_layers": 64,
    "num_conv_pos_embeddings": 1000,
    "num_conv_pos_embedding_groups": 10_000,
    "conv_pos_kernel_size": 1000,
    "conv_depthwise_kernel_size": 1000,
    "max_source_positions": 100_000,
    "num_mel_bins": 10_000,
    "num_buckets": 100_000,
    "max_bucket_distance": 10**7,
    "conv_dim": 100_000,
    "conv_kernel": 10_000,
    "conv_stride": 1000,
}
_CONFORMER_POSITIONS = {"rel_pos": "relative", "rope": "rotary"}


def kind_of(architecture: Mapping[str, Any]) -> Kind:
    """`UsageError` for a model that is none of these."""
    name = architecture.get("model_type")
    if not isinstance(name, str) or name not in KINDS:
        raise UsageError(
            f"model_type {name!r} is no speech encoder that Headwater knows ({', '.join(KINDS)}), and code that comes with a model "
            f"is never run.{nearest(str(name), list(KINDS))}"
        )
    return KINDS[name]


def config_of(architecture: Mapping[str, Any]) -> Any:
    """The configuration object of transformers. `UsageError` for one that it does not take."""
    import transformers

    kind = kind_of(architecture)
    cls = getattr(
        transformers, "WhisperConfig" if kind.model == "WhisperEncoder" else kind.model.removesuffix("Model") + "Config"
    )
    said = {key: value for key, value in architecture.items() if key not in _NEVER}
    # Parts behind the encoder are never built.
    said |= {"add_adapter": False} if "add_adapter" in said else {}
    try:
        config = cls(
            **{
                key: value
                for key, value in said.items()
                if key not in ("model_type", "architectures", "transformers_version")
            }
        )
    except Exception as error:  # whatever its checks raise
        raise UsageError(f"settings of {said['model_type']}: {' '.join(str(error).split())}") from None
    for key, most in _MOST.items():
        value = getattr(config, key, 1)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(one, int) or not 1 <= one <= most:
                raise UsageError(f"settings of {said['model_type']}: {key} is {value!r}, and may be 1 to {most}")
    buckets = getattr(config, "num_buckets", 0)
    if buckets and config.max_bucket_distance <= buckets // 4:
        raise UsageError(
            f"settings of {said['model_type']}: max_bucket_distance is {config.max_bucket_distance}; with {buckets} buckets it is above {buckets // 4}"
        )
    config._attn_implementation = "sdpa" if kind.sdpa else "eager"
    return config


def build(config: Any) -> nn.Module:
    """The model with fresh weights, drawn from torch's global generator. `UsageError` where the settings describe none."""
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    name = KINDS[config.model_type].model
    cls = WhisperEncoder if name == "WhisperEncoder" else getattr(transformers, name)
    try:
        model = cls(config)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError, ZeroDivisionError) as error:
        raise UsageError(f"settings of {config.model_type}: {' '.join(str(error).split())}") from None
    assert isinstance(model, nn.Module)
    return model


def architecture_of(file: Checkpoint, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fairseq or S3PRL checkpoint under transformers' names.

    weights: those of the encoder, under fairseq's names. What they show goes before what the file says of itself or leaves out.

    Raises UsageError for settings that no class of transformers can have.
    """
    said = file.model
    width = len(_tensor(weights, "encoder.layer_norm.weight"))
    convs = conv_layers(
        said.get("conv_feature_layers") or "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    )
    name = _model_type(said, weights)
    layered = "feature_extractor.conv_layers.0.2.1.weight" in weights
    architecture: dict[str, Any] = {
        "model_type": name,
        "hidden_size": width,
        "num_hidden_layers": 1 + max((int(key.split(".")[2]) for key in weights if _is_layer(key)), default=-1),
        "num_attention_heads": int(said.get("encoder_attention_heads", 12)),
        "intermediate_size": len(
            _tensor(weights, _first(weights, "encoder.layers.0.fc1.bias", "encoder.layers.0.ffn1.w_1.bias"))
        ),
        "hidden_act": "swish" if name == "wav2vec2-conformer" else said.get("activation_fn", "gelu"),
        "feat_extract_norm": "layer" if layered else "group",
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in weights,
        "conv_dim": [layer[0] for layer in convs],
        "conv_kernel": [layer[1] for layer in convs],
        "conv_stride": [layer[2] for layer in convs],
        "num_feat_extract_layers": len(convs),
        "num_conv_pos_embedding_groups": int(said.get("conv_pos_groups", 16)),
        "layer_norm_eps": 1e-5,
        "hidden_dropout": said.get("dropout", 0.1),
        "attention_dropout": said.get("attention_dropout", 0.1),
        "activation_dropout": said.get("activation_dropout", 0.0),
        "feat_proj_dropout": said.get("dropout_input", 0.0),
        "layerdrop": said.get("encoder_layerdrop", 0.0),
        "mask_time_prob": (said.get("mask_prob") or 0.65) if "mask_emb" in weights else 0.0,
        "mask_time_length": said.get("mask_length", 10),
        "mask_feature_prob": said.get("mask_channel_prob", 0.0) if "mask_emb" in weights else 0.0,
        "mask_feature_length": said.get("mask_channel_length", 10),
    }
    return architecture | _special(name, said, weights, layered)


def _special(name: str, said: Mapping[str, Any], weights: Mapping[str, Any], layered: bool) -> dict[str, Any]:
    """The settings that not all of the family have."""
    pre_norm = truth(said, "layer_norm_first")
    if name == "data2vec-audio":
        if pre_norm or not layered:
            raise UsageError(
                "several positional convolutions with pre-norm layers or a group norm: transformers has no such model"
            )
        depth = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.pos_conv."))
        kernel = _tensor(weights, "encoder.pos_conv.0.0.weight").shape[-1]
        return {"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": kernel}
    position_weight = _first(
        weights, *(f"encoder.pos_conv.0.{end}" for end in ("weight_v", "parametrizations.weight.original1"))
    )
    # A conformer has this convolution in its files, and no use for it.
    unused = name == "wav2vec2-conformer" and position_weight not in weights
    kernel = 128 if unused else _tensor(weights, position_weight).shape[-1]
    if name == "wav2vec2-conformer":
        position = _CONFORMER_POSITIONS.get(str(said.get("pos_enc_type")))
        if position is None or not pre_norm:
            raise UsageError(
                f"a conformer with pos_enc_type {said.get('pos_enc_type')!r} and layer_norm_first {pre_norm}: transformers has no such model"
            )
        depthwise = _tensor(weights, "encoder.layers.0.conv_module.depthwise_conv.weight").shape[-1]
        return {
            "num_conv_pos_embeddings": kernel,
            "position_embeddings_type": position,
            "conv_depthwise_kernel_size": depthwise,
        }
    settings: dict[str, Any] = {"num_conv_pos_embeddings": kernel, "do_stable_layer_norm": pre_norm}
    if name == "wavlm":
        buckets = len(_tensor(weights, "encoder.layers.0.self_attn.relative_attention_bias.weight"))
        settings |= {"num_buckets": buckets, "max_bucket_distance": int(said.get("max_distance", 1280))}
    return settings


def _model_type(said: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    if "encoder.pos_conv.0.0.weight" in weights:
        return "data2vec-audio"
    if any(".conv_module." in key for key in weights):
        return "wav2vec2-conformer"
    if "encoder.layers.0.self_attn.grep_a" in weights:
        return "wavlm"
    name = str(said.get("_name") or said.get("arch") or "")
    if name.startswith("hubert"):
        return "hubert"
    # The flat settings of Microsoft's models have no name.
    return "wav2vec2" if name else "unispeech-sat"


def _is_layer(key: str) -> bool:
    return key.startswith("encoder.layers.") and key.split(".")[2].isdigit()


def _first(weights: Mapping[str, Any], *names: str) -> str:
    return next((name for name in names if name in weights), names[0])


def _tensor(weights: Mapping[str, Any], name: str) -> Tensor:
    value = weights.get(name)
    if not isinstance(value, Tensor) or value.dim() == 0:
        raise UsageError(f"{name} is missing, or no tensor")
    return value
