"""Rounded inputs against integer products, torch's own fake quantization, a folded SmoothQuant, and planted spikes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small import embedded_model, embedded_tokenizer, tiny
from torch import nn
from transformers import GPT2Config, LlamaConfig

from superweights.errors import SuperweightsError
from superweights.quantization import Blocks, Scheme
from superweights.quantization.activation_scheme import ActivationScheme, HeldPlace, Hold, Smooth
from superweights.quantization.activations import held_out, product, round_input, round_weight
from superweights.quantization.calibration import calibrate
from superweights.quantization.held_places import activation_report, coverage, locate
from superweights.quantization.linears import linears_of
from superweights.quantization.rounding import rounding_activations

SCHEMES = [
    ActivationScheme(),
    ActivationScheme(4, "tensor", Hold("top", 3), clip=20.0),
    ActivationScheme(8, "static", Hold("deviations", 12.5), skip=("*.q_proj",)),
    ActivationScheme(smooth=Smooth(0.85, everywhere=True), weights=None),
    ActivationScheme(hold=Hold("places", places=(HeldPlace("*.down_proj", 3, None), HeldPlace("a", 1, 2)))),
    ActivationScheme(weights=Scheme("int4", fit="centred")),
]
DOWN = "model.layers.1.mlp.down_proj"


def llama() -> nn.Module:
    return tiny(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
        )
    )


def gpt2() -> nn.Module:
    return tiny(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32))


def ids(rows: int = 3, length: int = 8) -> torch.Tensor:
    return torch.randint(64, (rows, length), generator=torch.Generator().manual_seed(1))


def inputs(rows: int = 12, channels: int = 40, spike: float | None = 900.0) -> torch.Tensor:
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(0))
    if spike is not None:
        x[2, 5] = spike
    return x


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.mark.unit
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_schemes_survive_json(scheme):
    assert ActivationScheme.from_json(scheme.to_json()) == scheme
    assert str(scheme.hold) in str(scheme)


@pytest.mark.unit
@pytest.mark.parametrize(
    "make",
    [
        lambda: ActivationScheme(bits=9),
        lambda: ActivationScheme(scale="row"),
        lambda: ActivationScheme(clip=0),
        lambda: Hold("top"),
        lambda: Hold("top", 1.5),
        lambda: Hold("deviations", -1),
        lambda: Hold("places"),
        lambda: Hold("none", 3),
        lambda: HeldPlace("layer", -1),
        lambda: Smooth(1.5),
        lambda: ActivationScheme(scale="static", hold=Hold("deviations", 3, per="token")),
    ],
)
def test_schemes_that_mean_nothing_are_refused(make):
    with pytest.raises(SuperweightsError) as raised:
        make()
    assert raised.value.hint


@pytest.mark.unit
@pytest.mark.parametrize("scale", ["token", "tensor"])
def test_rounded_inputs_are_those_of_torchs_fake_quantization(scale):
    x = inputs(spike=None)
    found = round_input(x, ActivationScheme(scale=scale), sequences=1).dequantize()
    zero = torch.zeros(len(x), dtype=torch.int32)
    size = x.abs().amax(1) if scale == "token" else x.abs().amax().expand(len(x))
    expected = torch.fake_quantize_per_channel_affine(x, (size / 127).contiguous(), zero, 0, -127, 127)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize("hold", [Hold(), Hold("top", 2, "token"), Hold("deviations", 4), Hold("top", 300)])
@pytest.mark.parametrize("blocks", [Blocks("channel", ()), Blocks("tensor", ())])
@pytest.mark.parametrize("out_axis", [0, 1])
def test_the_integer_product_is_the_exact_one(hold, blocks, out_axis):
    """Against whole numbers in int64, held scalars in float64: the only errors are those of float32."""
    x, weight = inputs(), torch.randn(24, 40, generator=torch.Generator().manual_seed(3))
    scheme = ActivationScheme(scale="tensor", hold=hold)
    weights = Scheme("int8", "none", blocks, scale_dtype="float32")
    rounded = round_input(x, scheme, sequences=2)
    stored = weight if out_axis == 0 else weight.t().contiguous()
    by_integers = round_weight(stored, weights, out_axis)
    by_floats = round_weight(stored, weights, out_axis, integer=False)
    assert by_integers.codes is not None
    assert torch.equal(by_integers.matrix(), by_floats.matrix())

    whole = rounded.codes.long() @ by_integers.codes.long().t()
    assert torch.equal(whole, torch._int_mm(rounded.codes, by_integers.codes.t()).long())
    expected = whole.double() * rounded.scale.double() * by_integers.scale.double()
    held = torch.zeros(x.shape, dtype=torch.float64)
    held[rounded.rows, rounded.channels] = rounded.values.double()
    expected += held @ by_integers.matrix().double().t()
    for weight_ in (by_integers, by_floats):
        found = product(rounded, weight_).double()
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.unit
def test_a_held_spike_costs_its_neighbours_nothing():
    """With the spike held out the codes are those of the same input without a spike, and its value is exact."""
    scheme = ActivationScheme(scale="tensor", hold=Hold("deviations", 8))
    rounded = round_input(inputs(), scheme, sequences=1)
    quiet = inputs()
    quiet[2, 5] = 0
    without = round_input(quiet, ActivationScheme(scale="tensor"), sequences=1)
    assert (rounded.rows.tolist(), rounded.channels.tolist()) == ([2], [5])
    assert torch.equal(rounded.codes, without.codes)
    assert torch.equal(rounded.scale, without.scale)
    assert rounded.dequantize()[2, 5] == 900.0
    plain = round_input(inputs(), ActivationScheme(scale="tensor"), sequences=1)
    assert plain.codes.count_nonzero() < 5 < 300 < rounded.codes.count_nonzero()


@pytest.mark.unit
def test_top_and_deviations_hold_what_sorting_finds():
    x = inputs()
    by_size = x.abs().flatten().argsort(descending=True)
    for amount in (1, 7):
        mask = held_out(x, Hold("top", amount), 1)
        assert set(mask.flatten().nonzero().flatten().tolist()) == set(by_size[:amount].tolist())
    mask = held_out(x, Hold("top", 2, "token"), 1)
    assert torch.equal(mask.sum(1), torch.full((len(x),), 2))
    assert (x.abs().masked_fill(mask, 0).amax(1) <= x.abs().masked_fill(~mask, 99999).amin(1)).all()
    spread = x.double().square().mean().sqrt()
    assert torch.equal(held_out(x, Hold("deviations", 3), 1), x.double().abs() > 3 * spread)


@pytest.mark.unit
@pytest.mark.parametrize(
    "hold", [Hold(), Hold("top", 2), Hold("deviations", 4), Hold("deviations", 2, "token")]
)
@pytest.mark.parametrize("scale", ["token", "tensor"])
def test_sequences_of_a_batch_do_not_see_each_other(hold, scale):
    x, scheme = inputs(), ActivationScheme(scale=scale, hold=hold)
    together = round_input(x, scheme, sequences=3).dequantize()
    alone = [round_input(part, scheme, sequences=1).dequantize() for part in x.split(4)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.unit
def test_clipping_saturates_at_so_many_deviations():
    x = inputs()
    spread = float(x.square().mean().sqrt())
    found = round_input(x, ActivationScheme(scale="tensor", clip=2.0), sequences=1).dequantize()
    assert float(found.max()) == pytest.approx(2 * spread, rel=1e-5)
    assert float((found - x.clamp(-2 * spread, 2 * spread)).abs().max()) <= 2 * spread / 127 / 2 * 1.001


@pytest.mark.unit
def test_an_input_of_zeros_stays_zero():
    x = torch.zeros(4, 8)
    for scale in ("token", "tensor"):
        rounded = round_input(x, ActivationScheme(scale=scale, hold=Hold("deviations", 3)), sequences=1)
        assert torch.equal(rounded.dequantize(), x)


@pytest.mark.tiny
@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_model_is_its_own_again_even_when_the_body_raises(make):
    model = make()
    before, weights = logits(model, ids()), copy.deepcopy(model.state_dict())

    def broken() -> None:
        with rounding_activations(model, ActivationScheme(4)):
            assert not torch.equal(logits(model, ids()), before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        broken()
    assert torch.equal(logits(model, ids()), before)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.tiny
@pytest.mark.parametrize("make", [llama, gpt2])
def test_with_everything_held_out_only_the_weights_are_rounded(make):
    model = make()
    everything = Hold("deviations", 1e-9)
    with rounding_activations(model, ActivationScheme(2, hold=everything, weights=None)) as rounding:
        found = logits(model, ids())
    assert torch.allclose(found, logits(model, ids()), atol=1e-5)
    assert rounding.held_share > 0.99


@pytest.mark.tiny
@pytest.mark.parametrize("make", [llama, gpt2])
def test_integers_and_floats_give_one_model(make):
    model, scheme = make(), ActivationScheme(hold=Hold("top", 1, "token"))
    with rounding_activations(model, scheme):
        by_integers = logits(model, ids())
    with rounding_activations(model, scheme, integer=False):
        by_floats = logits(model, ids())
    assert torch.allclose(by_integers, by_floats, atol=1e-3)
    assert not torch.allclose(by_integers, logits(model, ids()), atol=1e-3)


@pytest.mark.tiny
def test_layers_that_read_one_tensor_round_it_once(monkeypatch):
    import superweights.quantization.rounding as room

    calls = []
    monkeypatch.setattr(room, "round_input", lambda *a, **k: calls.append(1) or round_input(*a, **k))
    model = llama()
    with rounding_activations(model, ActivationScheme()):
        logits(model, ids())
    assert len(calls) == 2 * 4  # for each layer: qkv, o, gate and up, down; of seven linears


@pytest.mark.tiny
def test_a_tensor_that_is_changed_in_place_is_rounded_again():
    layer = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    x = torch.ones(2, 4)
    with torch.no_grad(), rounding_activations(layer, ActivationScheme(weights=None)):
        layer["a"](x)
        x.mul_(3)
        found = layer["b"](x)
    assert torch.allclose(found, layer["b"](torch.full((2, 4), 3.0)), atol=1e-5)


@pytest.mark.tiny
def test_static_limits_are_the_largest_inputs_of_the_text():
    model = llama()
    largest: dict[str, float] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, given, name=name: largest.__setitem__(name, float(given[0].abs().max()))
        )
        for name, module in model.named_modules()
        if name.endswith("_proj")
    ]
    logits(model, ids())
    for hook in hooks:
        hook.remove()
    found = calibrate(model, ids(), ActivationScheme(scale="static"), batch_size=2)
    assert {name: limits.largest for name, limits in found.limits.items()} == pytest.approx(largest)
    held = calibrate(model, ids(), ActivationScheme(scale="static", hold=Hold("deviations", 2)))
    for name, limits in held.limits.items():
        assert limits.largest <= limits.threshold == pytest.approx(2 * limits.root_mean_square)
        assert limits.largest_of_all == pytest.approx(largest[name])


@pytest.mark.tiny
@pytest.mark.parametrize(("rule", "passes"), [(Hold("deviations", 2), 1), (Hold("top", 3), 2)])
def test_what_static_limits_leave_out_is_every_input_that_is_held(rule, passes):
    """By hand from the inputs of all layers; deviations need no second pass over the text."""
    model, seen = llama(), {}
    watched = [(name, module) for name, module in model.named_modules() if name.endswith("_proj")]
    scheme = ActivationScheme(scale="static", hold=rule)
    hooks = [
        module.register_forward_pre_hook(
            lambda _, given, name=name: seen.setdefault(name, []).append(given[0])
        )
        for name, module in watched
    ]
    found = calibrate(model, ids(), scheme, batch_size=1)
    for hook in hooks:
        hook.remove()
    for name, calls in seen.items():
        assert len(calls) == passes * len(ids())
        limits = found.limits[name]
        sizes = [x.flatten(0, -2).abs() for x in calls[: len(ids())]]
        if rule.rule == "deviations":
            rest = [size[size <= limits.threshold] for size in sizes]
        else:
            rest = [
                size.sort(1).values[:, :-3] if rule.per == "token" else size.flatten().sort().values[:-3]
                for size in sizes
            ]
        assert limits.largest == float(torch.cat([part.flatten() for part in rest]).max())


@pytest.mark.tiny
def test_static_rounding_saturates_or_holds_what_calibration_had_not_seen():
    model, scheme = llama(), ActivationScheme(scale="static", hold=Hold("deviations", 3), weights=None)
    calibration = calibrate(model, ids(), scheme)
    limits = calibration.limits[DOWN]
    x = torch.full((1, 48), limits.threshold * 50)
    assert torch.equal(round_input(x, scheme, 1, limits=limits).dequantize(), x)
    plain = calibration.without_holding()
    cut = round_input(x, plain.scheme, 1, limits=plain.limits[DOWN]).dequantize()
    assert float(cut.max()) == pytest.approx(limits.largest_of_all, rel=1e-5)


@pytest.mark.tiny
def test_smoothquant_at_run_time_is_smoothquant_folded_into_the_norms():
    """The scales by hand from hooks; norm gains divided, weights multiplied; then plain rounding."""
    model = llama()
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[3] *= 40
    alpha = 0.5
    folded = copy.deepcopy(model)
    with torch.no_grad():
        for layer, own in zip(folded.model.layers, model.model.layers, strict=True):
            pairs = [
                (
                    layer.input_layernorm,
                    [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj],
                ),
                (layer.post_attention_layernorm, [layer.mlp.gate_proj, layer.mlp.up_proj]),
            ]
            norms = (own.input_layernorm, own.post_attention_layernorm)
            for (norm, readers), original in zip(pairs, norms, strict=True):
                seen = []
                hook = original.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
                logits(model, ids())
                hook.remove()
                x = seen[0].abs().flatten(0, 1).amax(0)
                w = torch.cat([reader.weight for reader in readers]).abs().amax(0)
                scale = x**alpha / w ** (1 - alpha)
                norm.weight /= scale
                for reader in readers:
                    reader.weight *= scale
    assert torch.allclose(logits(folded, ids()), logits(model, ids()), atol=1e-4)
    scheme = ActivationScheme(scale="tensor", smooth=Smooth(alpha))
    with rounding_activations(model, scheme, calibrate(model, ids(), scheme)):
        found = logits(model, ids())
    with rounding_activations(folded, replace(scheme, smooth=None)):
        expected = logits(folded, ids())
    with rounding_activations(model, replace(scheme, smooth=None)):
        unsmoothed = logits(model, ids())
    assert (found - expected).norm() < 0.05 * (unsmoothed - expected).norm()


@pytest.mark.tiny
def test_smoothing_everywhere_reaches_what_no_norm_feeds():
    model = llama()
    some = calibrate(model, ids(), ActivationScheme(smooth=Smooth()))
    every = calibrate(model, ids(), ActivationScheme(smooth=Smooth(everywhere=True)))
    assert {name.rpartition(".")[2] for name in some.smoothing.scales} == {
        *("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    }
    assert len(every.smoothing.scales) == 2 * 7


def with_a_spike() -> nn.Module:
    """Neuron 7 of layer 1 is huge whatever the token: its gate and up rows read a constant channel."""
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 5.0
        for rows in (model.model.layers[1].mlp.gate_proj, model.model.layers[1].mlp.up_proj):
            rows.weight[7] = 0
            rows.weight[7, 0] = 9.0
    return model


@pytest.mark.tiny
def test_a_planted_spike_is_reported_located_and_covered():
    model, scheme = with_a_spike(), ActivationScheme(scale="tensor", hold=Hold("deviations", 4))
    report = {layer.module: layer for layer in activation_report(model, ids(), scheme)}
    found = report[DOWN]
    assert found.held == ids().numel()
    assert found.examples[0].place.channel == 7
    assert found.examples[0].share == 1.0
    assert found.error_held < found.error_plain / 3
    assert f"{found.held} of" in str(found)

    places = locate(model, ids(), scheme)
    assert HeldPlace(DOWN, 7, None) in places
    covered = coverage(model, ids(2, 5), scheme, places)
    assert covered.share_of_squares > 0.99
    assert coverage(model, ids(), scheme, ()).share_of_scalars == 0

    listed = replace(scheme, hold=Hold("places", places=places))
    with rounding_activations(model, listed) as rounding:
        logits(model, ids())
    assert rounding.held[DOWN] == ids().numel()


@pytest.mark.tiny
def test_what_cannot_be_done_is_said():
    model = llama()
    with pytest.raises(SuperweightsError, match="needs a calibration"):
        rounding_activations(model, ActivationScheme(scale="static")).__enter__()
    for scheme in (
        ActivationScheme(skip=("no.such.*",)),
        ActivationScheme(skip=("*",)),
        ActivationScheme(hold=Hold("places", places=(HeldPlace("no.such", 1),))),
    ):
        with pytest.raises(SuperweightsError):
            linears_of(model, scheme)
    outside = ActivationScheme(hold=Hold("places", places=(HeldPlace(DOWN, 48),)))
    with pytest.raises(SuperweightsError, match="48 channels"), rounding_activations(model, outside):
        logits(model, ids())
    with pytest.raises(SuperweightsError, match="finds no places"):
        locate(model, ids(), ActivationScheme())


@pytest.mark.tiny
def test_the_head_is_left_alone_and_patterns_skip():
    names = [linear.name for linear in linears_of(llama(), ActivationScheme(skip=("*.q_proj",)))]
    assert "lm_head" not in names
    assert len(names) == 2 * 6


@pytest.mark.tiny
def test_a_streamed_model_rounds_like_a_resident_one(tmp_path):
    from superweights.checkpoint import open_checkpoint
    from superweights.stream import streaming

    llama().save_pretrained(tmp_path)
    scheme = ActivationScheme(scale="static", hold=Hold("deviations", 3))
    found = []
    for resident in (True, False):
        with (
            open_checkpoint(str(tmp_path)) as checkpoint,
            streaming(checkpoint, dtype="float32", device="cpu", resident=resident) as model,
        ):
            with rounding_activations(model, scheme, calibrate(model, ids(), scheme)):
                found.append(logits(model, ids()))
    assert torch.equal(*found)


@pytest.mark.real
def test_the_super_activation_of_the_embedded_model_decides_per_tensor_rounding():
    from superweights.scoring import perplexity
    from superweights.subject.text import PROMPTS, windows

    model = embedded_model()
    rows = windows(embedded_tokenizer(), "\n".join(PROMPTS), 64, count=2)
    own = perplexity(model, rows).value
    scheme = ActivationScheme(scale="tensor", hold=Hold("deviations", 12))
    (layer,) = [r for r in activation_report(model, rows[:1], scheme) if ".11.mlp.down_proj" in r.module]
    assert layer.examples[0].place == HeldPlace("model.layers.11.mlp.down_proj", 1229, 0)
    assert layer.error_held < layer.error_plain / 5
    with rounding_activations(model, replace(scheme, hold=Hold())):
        plain = perplexity(model, rows).value
    with rounding_activations(model, scheme) as rounding:
        held = perplexity(model, rows).value
    assert held < 1.1 * own < 1.2 * own < plain
    assert 0 < rounding.held_share < 0.01


def test_a_grown_tokenformer_is_rounded_as_the_same_products_added_in_one(tmp_path):
    """Its slots are added generation by generation; transformers' linear layers of the same weights say the same."""
    from superweights.lab.tokenformer.config import TokenFormerConfig
    from superweights.lab.tokenformer.growth import grown
    from superweights.lab.tokenformer.model import TokenFormerForCausalLM

    torch.manual_seed(0)
    small = TokenFormerForCausalLM(TokenFormerConfig(vocab_size=64, hidden_size=32)).eval()
    larger = grown(small, 8)
    names = {linear.name for linear in linears_of(larger)}
    assert names == {linear.name for linear in linears_of(small)}
    ids = torch.randint(64, (2, 12))
    scheme = ActivationScheme()
    with rounding_activations(small, scheme), torch.no_grad():
        before = small(ids).logits
    with rounding_activations(larger, scheme), torch.no_grad():
        after = larger(ids).logits
    assert torch.allclose(before, after, atol=2e-3)  # the new slots are silent
    assert not torch.equal(after, larger(ids).logits)


def test_a_layer_that_does_more_than_multiply_is_still_refused():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 1.01 * super().forward(input)

    model = nn.Sequential(nn.Linear(8, 8), Doubled(8, 8, bias=False))
    with pytest.raises(SuperweightsError, match="quantized or wrapped already"):
        linears_of(model)
