"""Every architecture, adapted, trained, evaluated, merged and exported, beside plain transformers
in one process.
"""

import pytest
import torch
from architectures import ARCHITECTURES, DECODERS, build, configuration, outputs, plain
from every import OF_EACH_KIND, factories, thinned
from torch import nn

import zoo.parameterizations
from zoo.layers.batched import build_together
from zoo.layers.convert import convert, is_conv1d, linear_layers, merge, zoo_layers
from zoo.layers.names import matches
from zoo.layers.presets import preset_targets
from zoo.parameterizations import Dense
from zoo.testing import agree

transformers = pytest.importorskip("transformers")

FACTORIES = factories(of_base=True, BlockDCT={"ratio": 0.3, "block": 8}, RandLoRA={"rank": 2})
IN_FULL = ("bert", "gpt2", "llama")
CASES = [
    (kind, name)
    for kind in ARCHITECTURES
    for name in FACTORIES
    if kind == "bert" or name in (*OF_EACH_KIND, "DoRA", "Sum")
]


def adapted(network: nn.Module, name: str, scale: float = 0.5, **settings: bool) -> nn.Module:
    """A frozen network with an update of every linear layer in its blocks."""
    targets = preset_targets(network, "all")
    return convert(
        network.requires_grad_(False),
        FACTORIES[name],
        targets,
        start="update",
        scale=scale,
        **settings,
    )


def trained(network: nn.Module, steps: int = 4) -> list[float]:
    """The losses of a few steps in training mode, towards outputs drawn at random."""
    network.train()
    torch.manual_seed(0)
    rates = {
        p: layer.parameterization.lr_mults()[name]
        for layer in zoo_layers(network).values()
        for name, p in layer.parameterization.named_parameters()
    }
    optimizer = torch.optim.Adam(
        [
            {"params": [p], "lr": 0.02 * rates.get(p, 1.0)}
            for p in network.parameters()
            if p.requires_grad
        ]
    )
    losses, target = [], None
    for _ in range(steps):
        found = outputs(network)
        target = torch.randn_like(found) if target is None else target
        loss = (found - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def by_hand(network: nn.Module, expected: nn.Module) -> nn.Module:
    """A plain network with what a converted one has: W0 + s W by `weight()` alone, or W' of W0, and
    all else from its state.
    """
    state = dict(network.state_dict())
    for name, layer in zoo_layers(network).items():
        base, p = state.pop(f"{name}.weight", torch.tensor(0.0)), layer.parameterization
        if p.needs_base:
            weight = p.effective(base, layer.scale).detach()
        else:
            weight = base + layer.scale * p.weight().detach()
        state[f"{name}.weight"] = weight.mT if is_conv1d(layer.replaced) else weight
    expected.load_state_dict(
        {key: value for key, value in state.items() if ".parameterization." not in key}
    )
    return expected


@pytest.mark.parametrize(
    ("kind", "name"),
    thinned(CASES, lambda kind, name: name == ("LoRA" if kind == "bert" else "DCT")),
)
def test_adapted_trained_evaluated_merged_and_exported(kind, name, tmp_path):
    """To 1e-5, at each of these, the outputs of a plain network with the weights W0 + s W."""
    before = plain(kind)
    network = adapted(plain(kind), name)
    targets = preset_targets(before, "all")
    assert set(zoo_layers(network)) == {
        n for n in linear_layers(before) if any(matches(n, t) for t in targets)
    }
    with torch.no_grad():
        untrained = outputs(before)
        agree(outputs(network.eval()), untrained, 1e-5)

    old = {key: value.clone() for key, value in network.state_dict().items()}
    losses = trained(network)
    assert losses[-1] < losses[0] * 0.999
    still = [key for key, value in network.state_dict().items() if torch.equal(value, old[key])]
    assert still == [key for key in old if ".parameterization." not in key]

    with torch.no_grad():
        expected = outputs(by_hand(network, plain(kind)))
        assert (expected - untrained).abs().max() > 0.01 * untrained.abs().max()
        agree(outputs(network.train()), expected, 1e-5)
        agree(outputs(network.eval()), expected, 1e-5)
    agree(outputs(network).detach(), expected, 1e-5)  # in eval mode with a gradient
    agree(outputs(network.train()).detach(), expected, 1e-5)

    merged = merge(network.eval())
    assert type(merged) is type(before) and not zoo_layers(merged)
    assert merged.state_dict().keys() == before.state_dict().keys()
    before.load_state_dict(merged.state_dict())
    merged.save_pretrained(tmp_path)
    exported, report = type(before).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        for found in (merged, before, exported.eval()):
            agree(outputs(found), expected, 1e-5)

    torch.save(network.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(1)
    again = adapted(plain(kind), name).eval()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(outputs(again), outputs(network))


@pytest.mark.parametrize("kind", thinned(ARCHITECTURES, lambda kind: kind in IN_FULL))
def test_from_scratch_and_built_together(kind):
    """W alone, in batches while it trains; everything else trains as it is."""
    network = plain(kind)
    convert(network, FACTORIES["DCT"], preset_targets(network, "all"), start="random")
    build_together(network)
    losses = trained(network)
    assert losses[-1] < losses[0] * 0.999
    expected = outputs(by_hand(network, plain(kind))).detach()
    agree(outputs(network).detach(), expected, 1e-5)
    with torch.no_grad():
        agree(outputs(network.eval()), expected, 1e-5)
        agree(outputs(merge(network)), expected, 1e-5)


@pytest.mark.parametrize("kind", thinned(ARCHITECTURES, lambda kind: kind in IN_FULL))
def test_dense_and_projected_is_plain_fine_tuning(kind):
    """The same losses, step by step, and the same network after them."""
    network, reference = plain(kind), plain(kind)
    convert(network, Dense, preset_targets(network, "all"), start="project")
    losses, expected = trained(network), trained(reference)
    assert losses == pytest.approx(expected, rel=1e-5)
    state = merge(network).state_dict()
    assert state.keys() == reference.state_dict().keys()
    for key, value in reference.state_dict().items():
        # Adam magnifies rounding where a gradient is near 0.
        assert torch.allclose(state[key], value, atol=1e-4), key


@pytest.mark.parametrize("kind", thinned(ARCHITECTURES, lambda kind: kind in IN_FULL))
def test_what_is_computed_again_in_backward_is_the_same(kind):
    """W (`recompute`), and the activations of a block (gradient checkpointing)."""
    expected = trained(adapted(plain(kind), "DCT"))
    assert trained(adapted(plain(kind), "DCT", recompute=True)) == pytest.approx(expected, rel=1e-6)
    network = adapted(plain(kind), "DCT")
    if not network.supports_gradient_checkpointing:
        return
    old = network.gradient_checkpointing_enable  # what transformers 5 called it at first
    getattr(network, "activation_checkpointing_enable", old)({"use_reentrant": False})
    assert trained(network) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", thinned(ARCHITECTURES, lambda kind: kind in IN_FULL))
def test_frozen_weights_in_bfloat16(kind):
    """Coefficients are float32, and the merged network is in bfloat16 what the converted one is, to
    its precision.
    """
    network = adapted(plain(kind).to(torch.bfloat16), "DCT")
    assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    losses = trained(network)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        merged = merge(network.eval())
        assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
        agree(outputs(merged), outputs(network), 0.02)


BIASES = [
    ("bert", {}),
    ("falcon", {"bias": True}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 1}),
    ("gpt_neox", {"attention_bias": False}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("modernbert", {"attention_bias": True, "mlp_bias": True}),
    ("opt", {"enable_bias": False}),
    ("qwen3", {"attention_bias": True}),
    ("t5", {"feed_forward_proj": "gated-gelu"}),
]


@pytest.mark.parametrize(
    ("kind", "settings"), BIASES, ids=[f"{kind}-{'-'.join(s)}" for kind, s in BIASES]
)
def test_the_same_architecture_with_and_without_biases(kind, settings):
    network = adapted(build(configuration(kind, **settings)), "BlockDCT")
    trained(network)
    with torch.no_grad():
        expected = outputs(by_hand(network, build(configuration(kind, **settings))))
        for found in (network.train(), network.eval(), merge(network)):
            agree(outputs(found), expected, 1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", thinned(DECODERS, lambda kind: kind in IN_FULL))
def test_an_update_of_the_head_leaves_the_embedding_alone(kind, tied, tmp_path):
    """A tied head and it are two weights once merged, and the configuration says so."""
    before = build(configuration(kind, tie_word_embeddings=tied)).requires_grad_(False)
    assert (before.get_output_embeddings().weight is before.get_input_embeddings().weight) == tied
    (head,) = (
        name for name, module in before.named_modules() if module is before.get_output_embeddings()
    )
    network = convert(
        build(before.config).requires_grad_(False), FACTORIES["DCT"], [head], start="update"
    )
    trained(network)
    merged = merge(network.eval())
    with torch.no_grad():
        expected = outputs(network)
        agree(outputs(merged), expected, 1e-5)
        assert torch.equal(
            merged.get_input_embeddings().weight, before.get_input_embeddings().weight
        )
        assert not torch.equal(
            merged.get_output_embeddings().weight, before.get_output_embeddings().weight
        )
    assert not merged.config.tie_word_embeddings and network.config.tie_word_embeddings == tied
    merged.save_pretrained(tmp_path)
    again = type(merged)(merged.config).eval()
    again.load_state_dict(merged.state_dict())
    with torch.no_grad():
        agree(outputs(again), expected, 1e-5)
        agree(outputs(type(merged).from_pretrained(tmp_path).eval()), expected, 1e-5)


def test_a_layer_that_blocks_share_is_one_layer():
    """ALBERT calls one layer in every block: one set of coefficients, whose gradient is the sum
    over the calls.
    """
    network, reference = plain("albert"), plain("albert")
    layers = zoo_layers(convert(network, Dense, preset_targets(network, "all"), start="project"))
    assert len(layers) == 6 and network.config.num_hidden_layers == 2
    for found in (network, reference):
        outputs(found).square().sum().backward()
    for name, layer in layers.items():
        agree(layer.parameterization.coef.grad, reference.get_submodule(name).weight.grad, 1e-5)


def test_the_matrix_has_every_class():
    """A class that is exported and stands in no row of FACTORIES fails here."""
    exported = {
        name
        for name in zoo.parameterizations.__all__
        if not getattr(getattr(zoo.parameterizations, name), "__abstractmethods__", None)
    }
    assert (
        exported == set(FACTORIES)
        and set(OF_EACH_KIND) < exported
        and set(IN_FULL) < set(ARCHITECTURES)
    )
