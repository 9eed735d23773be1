"""`python -m tools.plan` under the name that it once had."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tools.plan", run_name="__main__", alter_sys=True)
