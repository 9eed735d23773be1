import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.errors import UserError
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan import targets


@pytest.mark.parametrize(
    "name, count", [("v5e:4x4", 16), ("v5p:8x8x8", 512), ("v6e:2x4", 8), ("h100:8", 8)]
)
def test_a_matmul_compiles_for_the_named_machine(name, count):
    devices = targets.devices(name)
    assert len(devices) == count
    sharding = NamedSharding(Mesh(devices, "x"), PartitionSpec("x"))
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=sharding)
    compiled = jax.jit(lambda x: x @ x.T).lower(x).compile()
    assert compiled.memory_analysis().argument_size_in_bytes == 2 * 1024 * 1024 // count


def test_a_mesh_axis_may_be_a_part_of_an_axis_of_the_torus():
    mesh = make_mesh(MeshConfig(data=3, fsdp=256, tensor=8), targets.devices("v5p:16x16x24"))
    assert mesh.size == 6144 and mesh.shape["tensor"] == 8


@pytest.mark.parametrize("name", ["v5e:3x5", "a100:8", "h100", "nonsense"])
def test_an_unknown_machine_is_one_clear_sentence(name):
    with pytest.raises(UserError, match=f"cannot compile for {name}"):
        targets.devices(name)
