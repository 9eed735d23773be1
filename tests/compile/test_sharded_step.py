"""The sharded train step as the TPU's compiler lays it out."""

import functools
import re

import jax
import pytest

from gpt_jax.data.batches import Batch, Prompts, Tokens
from gpt_jax.generate.sampler import generate
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan import targets
from gpt_jax.train import state as states
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step

B, T, D, L = 8, 1024, 128, 2


def compiled_step(mesh, machine="v5e:2x2", remat="none", optimizer=OptimizerConfig(), **step):
    """The step of a small bfloat16 model, compiled for a machine."""
    model = ModelConfig(256, T, width=D, layers=L, heads=2, dtype="bfloat16", remat=remat)
    optimizer = make_optimizer(optimizer, 10, axes_of(model))
    key = jax.eval_shape(lambda: jax.random.key(0))
    mesh = make_mesh(mesh, targets.devices(machine))
    weights_BT = jax.ShapeDtypeStruct((B, T), "float32")
    batch = shaped(Batch(token_shapes(B, T), weights_BT), mesh)
    train_step = make_train_step(model, lm_loss, optimizer, **step)
    with jax.set_mesh(mesh):
        state = states.abstract(
            lambda key: TrainState.create(init(model, key), optimizer),
            key,
            mesh=mesh,
            axes=axes_of(model),
        )
        return train_step.lower(state, batch, {}).compile()


def token_shapes(*shape):
    return Tokens(*[jax.ShapeDtypeStruct(shape, "int32")] * 3)


def shaped(batch, mesh):
    """A batch of shapes with its shardings."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        batch,
        rules.batch_shardings(batch, mesh),
    )


def moved(compiled, kind, within=""):
    """Elements of the results of one kind of collective, once per occurrence in the program;
    `within` is a part of the name of what it is for."""
    sizes = []
    for line in compiled.as_text().splitlines():
        if within not in line:
            continue
        match = re.search(rf"= (.*?) {kind}(-start)?\(", re.sub(r"\{[^{}]*\}", "", line))
        for shape in re.findall(r"\w+\[([\d,]+)\]", match[1]) if match else ():
            sizes.append(functools.reduce(int.__mul__, map(int, shape.split(","))))
    return sizes


def test_a_split_sequence_stays_where_it_is():
    """Over `context` only keys and values travel, one device's at a time. And what a device is
    given is its share of 8 bytes per parameter: 2 of its own, 4 of its master, 2 of moments."""
    small = OptimizerConfig(params="bfloat16", moments="factored")
    compiled = compiled_step(MeshConfig(data=1, fsdp=2, context=2), optimizer=small)
    assert "attention_dkv/pallas_call" in compiled.as_text()  # the kernel, inside the ring
    tokens_on_a_device = B * T // 4
    assert max(moved(compiled, "all-gather")) <= T * D  # a layer's matrix, or the positions
    assert tokens_on_a_device * D > T * D
    assert max(moved(compiled, "collective-permute")) <= tokens_on_a_device * D
    parameters = L * 12 * D * D + (T + 256) * D
    given = compiled.memory_analysis().argument_size_in_bytes
    assert given == pytest.approx(8 * parameters / 2 + 16 * tokens_on_a_device, rel=0.1)


def test_offloaded_inputs_wait_on_the_host():
    """Break it: drop the name in `Block`, and the device keeps them."""
    memory = compiled_step(MeshConfig(data=1, fsdp=4), remat="offload").memory_analysis()
    assert memory.host_temp_size_in_bytes == L * B * T * D * 2 // 4  # bfloat16


def test_decoding_gathers_no_weights():
    """fsdp keeps every layer's weights apart; only sums of 8 rows travel. Break it: give decoding
    the layout of training in `residual_axes`."""
    model = ModelConfig(256, 256, width=D, layers=L, heads=2, dtype="bfloat16")
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), targets.devices("v5e:2x2"))
    prompts = shaped(Prompts(token_shapes(8, 64), jax.ShapeDtypeStruct((8,), "int32")), mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    sample = functools.partial(generate, model, max_new_tokens=32, stop_ids=(1,), pad_id=0)
    with jax.set_mesh(mesh):
        params = states.abstract(lambda key: init(model, key), key, mesh=mesh, axes=axes_of(model))
        compiled = jax.jit(sample).lower(params, prompts, key).compile()
    assert max(moved(compiled, "all-gather")) >= D * D  # the prefill's
    assert max(moved(compiled, "all-gather", within="while/body/Transformer")) <= 8 * D
    assert max(moved(compiled, "all-reduce", within="while/body/Transformer")) <= 8 * 4 * D
