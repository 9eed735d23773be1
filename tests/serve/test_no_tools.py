"""Who talks to the server can run nothing: a model's calls of functions are handed back to them."""

from tests.test_house import imports, reachable, sources


def test_no_import_leads_from_the_server_to_what_runs_code_or_uses_a_tool():
    """Break it: import `gpt_jax.prompting.tools` in a file that the server uses."""
    modules, arrows = sources(), {}
    for name, _, other in imports():
        arrows.setdefault(name, set()).add(other)
    served = set().union(
        *(reachable(arrows, name) for name in modules if name.startswith("gpt_jax.serve"))
    )
    assert "gpt_jax.generate.constraints" in served  # imports inside of functions count, too
    runs = {"subprocess", "multiprocessing", "pty", "runpy", "code"}
    runs |= {name for name in modules if name.startswith("gpt_jax.tasks.sandbox")}
    runs |= {name for name in modules if name.startswith("gpt_jax.prompting")}
    assert not served & runs
