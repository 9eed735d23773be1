"""`python -m tools.faults` under the name that it once had."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tools.faults", run_name="__main__", alter_sys=True)
