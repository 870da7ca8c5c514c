"""LoRA's dropout is peft's, and of no account in eval mode; LoRA+; its algebra is in the suite."""

import pytest
import torch

from zoo.layers.linear import ZooLinear
from zoo.parameterizations import LoRA
from zoo.testing import agree
from zoo.training.optimizers import OptimizerConfig, build


def test_dropout_is_pefts():
    """From the same random state the same numbers of x are dropped, and gradients are equal."""
    peft = pytest.importorskip("peft")
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(8, 12)})
    config = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.4, target_modules=["a"])
    layer = peft.get_peft_model(net, config).train().base_model.model.a
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    p = LoRA(12, 8, rank=4, dropout=0.4)
    with torch.no_grad():
        p.lora_A.copy_(layer.lora_A["default"].weight)
        p.lora_B.copy_(layer.lora_B["default"].weight)
    ours = ZooLinear(p, layer.base_layer.bias.detach(), layer.base_layer.weight.detach(), 1.5)
    x, found = torch.randn(5, 8), []
    for each, factors in (
        (ours, [p.lora_A, p.lora_B]),
        (layer, [layer.lora_A["default"].weight, layer.lora_B["default"].weight]),
    ):
        torch.manual_seed(1)
        y = each(x)
        found.append((y.detach(), *torch.autograd.grad(y.tanh().sum(), factors)))
    for a, b in zip(*found, strict=True):
        agree(a, b, 1e-5)


@pytest.mark.parametrize("update", [False, True])
def test_dropout_is_w_on_the_average_and_nothing_in_eval_mode(update):
    p = LoRA(12, 8, rank=4, dropout=0.4).double()
    base = torch.randn(12, 8).double() if update else None
    layer, x = ZooLinear(p, None, base), torch.randn(3, 8).double()
    y = x @ layer.effective_weight().mT
    drawn = torch.stack([layer(x) for _ in range(4000)])
    assert drawn.std(0).min() > 0
    agree(drawn.mean(0), y, 0.1)
    agree(layer.eval()(x), y, 1e-12)
    with torch.no_grad():
        agree(layer(x), y, 1e-12)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_out_of_range_is_refused(dropout):
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got"):
        LoRA(12, 8, rank=4, dropout=dropout)


def rates_of(optimizer, names):
    """The rate and decay of each parameter, by its name."""
    groups = ((g, p) for g in optimizer.param_groups for p in g["params"])
    return {names[id(p)]: (g["lr"], g["lr"] * g["weight_decay"]) for g, p in groups}


def test_lora_plus_is_pefts_ratio():
    """B's rate is so many times A's in either; A's, and the decay of W, are as without."""
    peft = pytest.importorskip("peft")
    optimizers = pytest.importorskip("peft.optimizers")
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(96, 48)})
    model = peft.get_peft_model(net, peft.LoraConfig(r=6, target_modules=["a"]))
    plus = optimizers.create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=0.04, loraplus_lr_ratio=16
    )
    names = {id(p): "BA"["lora_A" in name] for name, p in model.named_parameters()}
    theirs = {name: rate for name, (rate, _) in rates_of(plus, names).items()}
    assert theirs == {"A": 0.04, "B": pytest.approx(0.64)}
    found = []
    for ratio in (1.0, 16.0):
        p = LoRA(48, 96, rank=6, lr_ratio=ratio)
        p.reset_parameters(0.0)
        names = {id(p.lora_A): "A", id(p.lora_B): "B"}
        config = OptimizerConfig(lr=0.01, weight_decay=0.1)
        found.append(rates_of(build(ZooLinear(p), config, fused=False), names))
    (plain, decay), ours = found[0]["A"], found[1]
    assert found[0]["B"] == (plain, decay) and plain == pytest.approx(0.04)
    assert ours["A"] == (plain, decay)
    assert ours["B"] == pytest.approx((theirs["B"], decay))


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_of_rates_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match="lr_ratio must be above 0 and finite, got"):
        LoRA(12, 8, rank=4, lr_ratio=ratio)
