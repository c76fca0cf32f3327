"""A tiny random model of every type that transformers maps beside the causal ones: masked, sequence to sequence, and
those that see or hear.

Test support. `families` shrinks the configurations; here is what these kinds need in addition: which class is built,
what the model is given (pictures and sounds as numbers, without a processor), and in which towers a weight can be
planted.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from families import EXTRA, HEADS, HIDDEN, LARGEST, VOCABULARY, _enliven, _shrunk, token_ids
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

ROWS, LENGTH = 4, 12
# Some parts have no size field that makes them smaller.
MOST = 20 * LARGEST

# Each kind: the mapping that names its types, and the objective that opens them.
KINDS: dict[str, tuple[str, ...]] = {
    "masked": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES",),
    "seq2seq": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"),
    "image": ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"),
}
# Keys and values of few heads have the shape of a down-projection.
ATTENTION = re.compile(r"\.(self_)?att[a-z]*\.")
# What the model raises when it is given what it cannot use; the next form of its inputs is tried.
CANNOT_USE = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, AssertionError)


def types_of(kind: str) -> list[str]:
    """Every model type of a kind, sorted."""
    return sorted({name for mapping in KINDS[kind] for name in getattr(modeling_auto, mapping)})


def class_of(kind: str, model_type: str) -> type[PreTrainedModel]:
    """The class that transformers maps a type to, for a kind."""
    import transformers

    names = next(
        found for mapping in KINDS[kind] if (found := getattr(modeling_auto, mapping).get(model_type))
    )
    return getattr(transformers, names if isinstance(names, str) else names[0])


def tiny(kind: str, model_type: str, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A random model of the type in eval mode, under a million parameters, the same for the same seed."""
    config = tiny_config(kind, model_type, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = class_of(kind, model_type)._from_config(config)
        _enliven(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert size < MOST, f"{model_type} has {size} parameters"
    return model.eval()


def tiny_config(kind: str, model_type: str, **sizes: Any) -> PreTrainedConfig:
    """The type's configuration with every size made small.

    What the names of the fields do not tell is asked of transformers: a check that fails says which field must be like
    which other, and a parameter that is still large has an axis as long as the field that makes it so.
    """
    extra = EXTRA.get(model_type, {}) | MORE.get(model_type, {}) | sizes
    for _ in range(_ATTEMPTS):
        try:
            config = _shrunk(CONFIG_MAPPING[model_type], extra)
        except StrictDataclassError as error:
            if not (told := _told(str(error))) or told.items() <= extra.items():
                raise
            extra |= told
            continue
        _not_decoding(config, kind)
        with init_empty_weights():
            model = class_of(kind, model_type)._from_config(copy.deepcopy(config))
        size = sum(parameter.numel() for parameter in model.parameters())
        smaller = _smaller(model, config) if size >= MOST else {}
        if not smaller or smaller.items() <= extra.items():
            return config
        extra |= smaller
    return config


_ATTEMPTS = 12


def _told(sentence: str) -> dict[str, Any]:
    """The field and its value that a failed check of transformers asks for."""
    found = re.search(r"`([\w.]+)` \((\d+)\) must (?:equal|match) `[^`]+` \((\d+)\)", sentence)
    return {found[1]: int(found[3])} if found else {}


def _smaller(model: PreTrainedModel, config: PreTrainedConfig) -> dict[str, Any]:
    """The fields as long as the longest axes of the largest parameter, made as long as others are."""
    largest = max(model.parameters(), key=lambda parameter: parameter.numel())
    fields = dict(_fields(config))
    for axis in sorted(largest.shape, reverse=True):
        same = [name for name, held in fields.items() if held == axis]
        if axis > VOCABULARY or (axis > HIDDEN and same):
            small = VOCABULARY if any("vocab" in name or "position" in name for name in same) else HIDDEN
            if same and axis > small:
                return dict.fromkeys(same, small)
    return {}


def _fields(config: PreTrainedConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every whole number of a configuration and of those inside it, by its dotted name."""
    for name, held in vars(config).items():
        if isinstance(held, PreTrainedConfig):
            yield from _fields(held, f"{path}{name}.")
        elif type(held) is int and not name.startswith("_"):
            yield f"{path}{name}", held


# What the names of the fields do not say.
_SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_SEEING = {"text_config.rope_parameters": _SECTIONS}
MORE: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {"<image>": 8}},
    "cohere_compass": {
        "text_config.rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cosmos3_edge": _SEEING,
    "distilbert": {"dim": HIDDEN, "hidden_dim": 96, "n_layers": 3, "n_heads": HEADS},
    "emu3": {"vocabulary_map": {"<image>": 8}},
    "ernie4_5_vl_moe": _SEEING,
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": VOCABULARY - 1},
    "esmc": {"vocab_size": VOCABULARY},
    "fsmt": {"src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY},
    "gemma3": {"mm_tokens_per_image": 4},
    "glm46v": _SEEING,
    "glm4v": _SEEING,
    "glm4v_moe": _SEEING,
    "glm5_next": {"text_config.index_topk": 16},
    "glm_ocr": _SEEING,
    "glmga": _SEEING,
    "idefics3": {"vision_config.patch_size": 8},
    "llama4": {"vision_config.intermediate_size": 4 * HIDDEN},
    "luke": {"entity_vocab_size": 64, "entity_emb_size": 32},
    "mobilebert": {"embedding_size": 32},
    "nemotron_h_omni": {"vision_config.video_temporal_patch_size": 2},
    "paddleocr_vl": _SEEING,
    "perceiver": {"d_latents": HIDDEN, "d_model": HIDDEN, "num_latents": 16, "num_self_attends_per_block": 3},
    "qwen2_5_omni_thinker": _SEEING,
    "qwen2_5_vl": _SEEING,
    "qwen2_vl": _SEEING | {"vision_config.embed_dim": HIDDEN},
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "smolvlm": {"vision_config.patch_size": 8},
}


def _not_decoding(config: PreTrainedConfig, kind: str) -> None:
    """`families` sets every configuration to decode; an encoder's is set back."""
    if kind == "masked" and hasattr(config, "is_decoder"):
        config.is_decoder = False


def inputs_for(kind: str, model: PreTrainedModel, seed: int = 0) -> dict[str, torch.Tensor]:
    """The arguments that the model runs with, and `labels` where they do not follow; four rows.

    Raises what the model raised last when none of the forms that its inputs may have fits.
    """
    error: BaseException = ValueError("no form of inputs fits")
    for form in _forms(kind, model, seed):
        try:
            with torch.no_grad():
                given = {name: held for name, held in form().items() if name != "labels"}
                _check_taken(model, given)
                model(**given)
        except CANNOT_USE as raised:
            error = error if isinstance(raised, NoPlaceError) else raised
            continue
        return form()
    raise error


def _check_taken(model: PreTrainedModel, given: dict[str, torch.Tensor]) -> None:
    """Raise for an argument that the model would swallow unread."""
    strange = given.keys() - inspect.signature(model.forward).parameters.keys()
    if strange:
        raise NoPlaceError(f"the model takes no {', '.join(strange)}")


def _forms(kind: str, model: PreTrainedModel, seed: int) -> Iterator[Any]:
    ids = token_ids(ROWS, LENGTH, seed)
    if kind == "masked":
        yield lambda: _masked(ids)
        return
    if kind == "seq2seq":
        yield lambda: {"input_ids": ids, "decoder_input_ids": token_ids(ROWS, LENGTH, seed + 1)}
        for sound in _sounds(model, seed):
            yield lambda sound=sound: sound | {"decoder_input_ids": ids}
            yield lambda sound=sound: _with_places(model, sound, ids, "audio")
        return
    for picture in _pictures(model, seed):
        yield lambda picture=picture: _with_places(model, picture, ids, "image")
        yield lambda picture=picture: picture | {"input_ids": ids}
        yield lambda picture=picture: picture | {"decoder_input_ids": ids}
        yield lambda picture=picture: picture | {"input_ids": ids, "decoder_input_ids": ids}
    for sound in _sounds(model, seed):
        yield lambda sound=sound: _with_places(model, sound, ids, "audio")
    yield lambda: {"input_ids": ids}


def _masked(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every fifth token hidden by the last of the vocabulary."""
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 2::5] = True
    return {
        "input_ids": ids.masked_fill(hidden, VOCABULARY - 1),
        "labels": ids.masked_fill(~hidden, -100),
    }


def _with_places(
    model: PreTrainedModel, sense: dict[str, torch.Tensor], ids: torch.Tensor, word: str
) -> dict[str, torch.Tensor]:
    """The token ids behind as many places as the model makes of a picture or a sound."""
    token = _token_for(model, word)
    count = _places(model, sense, word)
    places = torch.full((ROWS, count), token)
    joined = torch.cat([ids[:, :1], places, ids[:, 1:]], 1)
    made = sense | {"input_ids": joined}
    for name, here in (("mm_token_type_ids", 1), ("token_type_ids", 1)):
        if name in inspect.signature(model.forward).parameters:
            made[name] = (joined == token).long() * here
    return made


def _token_for(model: PreTrainedModel, word: str) -> int:
    """The token that stands for a picture or a sound, by the configuration."""
    for name in (f"{word}_token_id", f"{word}_token_index", "media_placeholder_token_id"):
        if isinstance(value := getattr(model.config, name, None), int):
            return value
    raise NoPlaceError(f"no token stands for an {word}")


class NoPlaceError(ValueError):
    """The model has no token for what it is to be given."""


def _places(model: PreTrainedModel, sense: dict[str, torch.Tensor], word: str) -> int:
    """How many tokens of a row stand for its picture or sound, as the model's own features say."""
    owner: Any = model if hasattr(model, f"get_{word}_features") else model.model
    ask = getattr(owner, f"get_{word}_features")
    takes = inspect.signature(ask).parameters
    with torch.no_grad():
        found = ask(**{name: held for name, held in sense.items() if name in takes})
    features = getattr(found, "pooler_output", None)
    features = found if features is None else features
    features = getattr(features, "last_hidden_state", features)
    if isinstance(features, list | tuple):
        features = torch.cat([each.flatten(0, -2) for each in features])
    return features.flatten(0, -2).shape[0] // ROWS


def _pictures(model: PreTrainedModel, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Random pictures in the forms in which processors give them."""
    vision = next(
        (
            held
            for name in ("vision_config", "vision_tower_config", "encoder", "thinker_config", "text_config")
            if (held := getattr(model.config, name, None)) is not None
        ),
        model.config,
    )
    size = getattr(vision, "image_size", None) or 32
    size = size[0] if isinstance(size, list | tuple) else size
    draw = torch.Generator().manual_seed(seed)
    plain = torch.randn(ROWS, 3, size, size, generator=draw)
    sizes = torch.full((ROWS, 2), size)
    yield {"pixel_values": plain}
    yield {"pixel_values": plain, "image_sizes": sizes}
    yield {"pixel_values": plain[:, None]}
    yield {
        "pixel_values": plain[:, None],
        "pixel_attention_mask": torch.ones(ROWS, 1, size, size, dtype=torch.bool),
    }
    yield {"pixel_values": plain[:, None].expand(-1, 2, -1, -1, -1).contiguous(), "image_sizes": sizes}
    patch = getattr(vision, "patch_size", None) or getattr(vision, "spatial_patch_size", 14)
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    merge = getattr(vision, "spatial_merge_size", None) or getattr(vision, "merge_size", 1) or 1
    across = 2 * (merge if isinstance(merge, int) else 2)
    for frames in (getattr(vision, "temporal_patch_size", 1) or 1, 1):
        width = 3 * frames * patch * patch
        flat = torch.randn(ROWS * across * across, width, generator=draw)
        grid = torch.tensor([[1, across, across]] * ROWS)
        yield {"pixel_values": flat, "image_grid_thw": grid}
        yield {"pixel_values": flat, "image_grid_thw": grid[:, 1:]}
        yield (
            {"pixel_values": flat.view(-1, 3, patch, patch), "image_grid_hws": grid[:, 1:]}
            if frames == 1
            else {"pixel_values": flat, "grid_thws": grid}
        )
    places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1).view(1, 16, 2)
    yield {
        "pixel_values": torch.randn(ROWS, 16, 3 * patch * patch, generator=draw),
        "image_position_ids": places.expand(ROWS, -1, -1).contiguous(),
    }
    yield {
        "pixel_values": torch.randn(ROWS, 16, 3 * patch * patch, generator=draw),
        "pixel_attention_mask": torch.ones(ROWS, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * ROWS),
    }
    yield {
        "pixel_values": plain[:, None, None],
        "aspect_ratio_ids": torch.ones(ROWS, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(ROWS, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(ROWS, LENGTH, 1, 1),
    }
    yield {"flattened_patches": torch.randn(ROWS, 16, 2 + 3 * patch * patch, generator=draw).abs()}


def _sounds(model: PreTrainedModel, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Random sounds in the forms in which feature extractors give them."""
    draw = torch.Generator().manual_seed(seed)
    audio = (
        getattr(model.config, "audio_config", None)
        or getattr(model.config, "encoder_config", None)
        or model.config
    )
    named = ("num_mel_bins", "feature_size", "input_feat_per_channel", "input_dim", "n_mels")
    bins = next((held for name in named if isinstance(held := getattr(audio, name, None), int)), 80)
    long = 2 * getattr(audio, "max_source_positions", 64)
    for steps in (long, 64, 128, 3000):
        features = torch.randn(ROWS, bins, steps, generator=draw)
        yield {"input_features": features}
        mask = torch.ones(ROWS, steps, dtype=torch.long)
        for name in ("feature_attention_mask", "input_features_mask", "attention_mask"):
            yield {"input_features": features, name: mask}
            yield {"input_features": features.mT.contiguous(), name: mask}
        yield {"input_features": features.mT.contiguous()}
    yield {"input_values": torch.randn(ROWS, 4096, generator=draw)}
    yield {"input_features": torch.randn(ROWS, 4096, generator=draw)}


def save(model: PreTrainedModel, folder: Path | str) -> None:
    """Write the model to `folder` as a stranger's checkpoint."""
    model.save_pretrained(folder)


def places_to_plant(model: PreTrainedModel) -> dict[str, tuple[str, int]]:
    """For each stack of blocks the last matrix of an early block that leads from more channels to fewer, and how many
    those are: what a down-projection is, told by shape."""
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for name, module in model.named_modules():
        at = re.match(r"(.*?)\.(\d+)\.", name)
        if (
            at is not None
            and isinstance(module, torch.nn.Linear)
            and module.out_features < module.in_features
            and not ATTENTION.search(name)
        ):
            stack, number = at.group(1), int(at.group(2))
            before = found.setdefault(stack, {}).get(number, ("", 0))
            if module.out_features >= before[1]:  # a gate of a few channels is none
                found[stack][number] = f"{name}.weight", module.out_features
    return {stack: held[sorted(held)[1 if len(held) > 2 else 0]] for stack, held in found.items()}
