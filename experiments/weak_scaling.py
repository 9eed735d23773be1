"""`python -m tools.weak_scaling` under the name that it once had."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tools.weak_scaling", run_name="__main__", alter_sys=True)
