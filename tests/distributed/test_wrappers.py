"""Under DistributedDataParallel, FSDP2, autocast and torch.compile."""

import contextlib

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mixnorm_cuda import MixtureNorm2d, SyncMixtureNorm, convert_sync_mixture_norm
from tests.distributed import jobs
from tests.distributed.test_parity import SHARDS, batches_of
from tests.support import assert_close, same_bits

STEPS = 3


def network(options, dtype=torch.float64):
    """Two mixture layers, seeded, the same in every process."""
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), MixtureNorm2d(6, **options), nn.ReLU(),
        nn.Conv2d(6, 8, 3), MixtureNorm2d(8, **options),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    net(torch.randn(16, 3, 8, 8))
    return net.to(dtype)


def data(sizes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(STEPS, 2, sum(sizes), 3, 8, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (STEPS, 2, sum(sizes)), generator=generator)
    return x.to(dtype), target


def loss_of(net, x, target, whole):
    """The sum over the own part, divided by the size of the whole batch."""
    return nn.functional.cross_entropy(net(x), target, reduction="sum") / whole


def state(net):
    module = net.module if isinstance(net, DistributedDataParallel) else net
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def train_alone(options, sizes, accumulate):
    net = network(options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    x, target = data(sizes)
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(2 if accumulate else 1):
            loss_of(net, x[step, micro], target[step, micro], sum(sizes)).backward()
        optimizer.step()
    return state(net)


def train_in_ddp(rank, options, sizes, accumulate, broadcast_buffers):
    world = len(sizes)
    net = DistributedDataParallel(
        convert_sync_mixture_norm(network(options)), broadcast_buffers=broadcast_buffers
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    x, target = (t.split(sizes, dim=2)[rank] for t in data(sizes))
    for step in range(STEPS):
        optimizer.zero_grad()
        micros = 2 if accumulate else 1
        for micro in range(micros):
            last = micro == micros - 1
            with contextlib.nullcontext() if last else net.no_sync():
                # DistributedDataParallel averages: the sum is world times that.
                loss = loss_of(net, x[step, micro], target[step, micro], sum(sizes)) * world
                loss.backward()
        optimizer.step()
    return state(net)


@pytest.mark.parametrize("broadcast_buffers", [True, False])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("shards", ["unequal", "empty"])
def test_ddp(team, shards, accumulate, broadcast_buffers):
    """Training steps of a network: parameters and buffers of one process on the joined batch."""
    sizes, options = SHARDS[team.size][shards], {"em_iters": 1}
    expected = train_alone(options, sizes, accumulate)
    for result in team.run(train_in_ddp, options, sizes, accumulate, broadcast_buffers):
        for name, value in expected.items():
            # Three steps of a net with kinks multiply roundings of 1e-16 by less than 1e5.
            assert_close(result[name].double(), value.double(), 1e-11)


def start_as_batch_norm(rank, x):
    net = SyncMixtureNorm(6, component_affine=True, affine_init="batchnorm", dtype=torch.float64)
    reference = nn.BatchNorm2d(6, dtype=torch.float64)
    y = DistributedDataParallel(net)(x.chunk(2)[rank])
    return y.detach() - reference(x).chunk(2)[rank].detach(), net.weight.detach()


def test_every_process_starts_as_the_same_batch_norm(pair):
    x = torch.randn(8, 6, 3, 3, dtype=torch.float64) + 2
    results = pair.run(start_as_batch_norm, x)
    assert same_bits(results[0][1], results[1][1])
    for difference, _ in results:
        assert difference.abs().max() < 1e-10


def train_in_fsdp(rank, options, sizes, half):
    net = convert_sync_mixture_norm(network(options, torch.float32))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if half else MixedPrecisionPolicy()
    mesh = distributed.device_mesh.init_device_mesh("cpu", (len(sizes),))
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(net, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    x, target = (t.split(sizes, dim=2)[rank] for t in data(sizes, torch.float32))
    for step in range(STEPS):
        optimizer.zero_grad()
        (loss_of(net, x[step, 0], target[step, 0], sum(sizes)) * len(sizes)).backward()
        optimizer.step()
    return {
        name: (t.full_tensor() if hasattr(t, "full_tensor") else t).clone()
        for name, t in net.state_dict().items()
    }


@pytest.mark.parametrize("half", [False, True])
def test_fsdp2(pair, half):
    """Sharded parameters, in bfloat16 while computing if ``half``; buffers stay in float32."""
    sizes, options = SHARDS[2]["unequal"], {"em_iters": 1}
    expected = train_alone(options, sizes, accumulate=False)
    first, second = pair.run(train_in_fsdp, options, sizes, half)
    # Roundings of 1e-7 or 4e-3 in activations, over three steps with some cancellation.
    tolerance = 0.1 if half else 1e-4
    for name, value in expected.items():
        assert same_bits(first[name], second[name])
        if "running" in name:
            assert first[name].dtype == torch.float32
        assert_close(first[name].double(), value.double(), tolerance)


def under_autocast(rank, x):
    layer = SyncMixtureNorm(6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(nn.functional.conv2d(x[rank], torch.eye(6)[:, :, None, None]))
    y.sum().backward()
    return y.dtype, layer.weight.grad.dtype, layer.running_mean


def test_autocast(pair):
    for y, gradient, mean in pair.run(under_autocast, torch.randn(2, 4, 6, 3, 3)):
        assert y == torch.bfloat16
        assert gradient == mean.dtype == torch.float32
        assert mean.isfinite().all()


def compiled(rank, options, backend, sizes):
    torch._dynamo.reset()
    torch.manual_seed(rank)
    eager, module = (SyncMixtureNorm(6, **{"momentum": 0.9} | options) for _ in range(2))
    eager(torch.randn(4, 6, 5) + 1)
    module.load_state_dict(eager.state_dict())
    step = torch.compile(module, fullgraph=True, backend=backend)
    pairs = []
    for size in sizes[rank]:
        x, dy = torch.randn(2, size, 6, 5)
        for run, norm in ((eager, eager), (step, module)):
            leaf = x.clone().requires_grad_()
            norm.zero_grad()
            torch.manual_seed(rank)  # seeding draws
            y = run(leaf)
            y.backward(dy)
            gradients = [p.grad.clone() for p in norm.parameters()]
            pairs.append([y.detach(), leaf.grad, *gradients, *(b.clone() for b in norm.buffers())])
    return list(zip(pairs[::2], pairs[1::2], strict=True))


@pytest.mark.parametrize(
    ("options", "backend", "sizes"),
    [
        ({"estimator": "batch", "em_iters": 1, "num_components": 2}, "aot_eager", ((4,), (5,))),
        # A second size makes the graph dynamic.
        ({"momentum": None, "num_components": 1}, "aot_eager", ((4, 4), (5, 3))),
        pytest.param({"num_components": 2}, "inductor", ((4,), (5,)), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_compiled(pair, options, backend, sizes):
    """One graph with its collectives gives the eager step."""
    for result in pair.run(compiled, options, backend, sizes):
        for eager, graph in result:
            for expected, value in zip(eager, graph, strict=True):
                torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def checkpointed(rank, batches, options, reentrant):
    plain = SyncMixtureNorm(jobs.CHANNELS, **options)
    layer = SyncMixtureNorm(jobs.CHANNELS, **options)

    def repeated(x):
        return checkpoint(layer, x, use_reentrant=reentrant)

    results = []
    for run, norm in ((plain, plain), (repeated, layer)):
        torch.manual_seed(rank)
        for x, dy in zip(*batches.of(rank)[:2], strict=True):
            leaf = x.clone().requires_grad_()
            y = run(leaf)
            y.backward(dy)
        results.append([y.detach(), leaf.grad, *(b.clone() for b in norm.buffers())])
    return results


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("options", [{}, {"estimator": "batch"}], ids=str)
def test_activation_checkpointing(pair, options, reentrant):
    """The repetition exchanges again and tracks nothing; the first batch of one is empty."""
    batches = batches_of((6, 0), torch.float64)
    options = options | {"dtype": torch.float64}
    for expected, results in pair.run(checkpointed, batches, options, reentrant):
        for value, repeated in zip(expected, results, strict=True):
            torch.testing.assert_close(repeated, value, rtol=1e-12, atol=1e-12)
