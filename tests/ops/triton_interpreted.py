"""Conformance of the Triton backend in the interpreter; a program, as Triton decides at its import.

TRITON_INTERPRET=1 python tests/ops/triton_interpreted.py bias_act --step 7
"""

from __future__ import annotations

import argparse
import importlib
import sys

from pix2gan.ops import cases as samples
from pix2gan.ops import conformance

PACKAGE = "pix2gan.ops.backends.triton"
MODULES = ("bias_act", "upfirdn2d", "instance_norm", "scaled_conv2d")


def use_int64() -> None:
    """Offsets as for tensors past 2^31 elements."""
    import triton.language as tl

    for name in MODULES:
        importlib.import_module(f"{PACKAGE}.{name}").index_type = lambda *_: tl.int64


def use_configurations_of(capability: int, processors: int) -> None:
    """The blocks of a GPU instead of small ones."""
    launch = importlib.import_module(f"{PACKAGE}.launch")
    launch.architecture_of = lambda _: launch.cuda_architecture(capability, processors)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("subjects", nargs="+")
    parser.add_argument("--step", type=int, default=1, help="every such case, in one dtype each")
    parser.add_argument("--int64", action="store_true")
    parser.add_argument("--capability", type=int)
    parser.add_argument("--processors", type=int, default=132)
    options = parser.parse_args()
    if options.int64:
        use_int64()
    if options.capability:
        use_configurations_of(options.capability, options.processors)
    results = []
    for subject in options.subjects:
        for k, dtype in enumerate(conformance.DTYPES):
            # another third of the cases for each dtype
            start = k * options.step // len(conformance.DTYPES)
            for module, name in ((samples.cases, "cases"), (samples.op_cases, "op_cases")):
                chosen = lambda what, f=module, i=start: f(what)[i :: options.step]  # noqa: E731
                setattr(conformance, name, chosen)
            results += conformance.check("triton", "cpu", (dtype,), subjects=[subject])
    sys.stdout.write(conformance.table(results) + "\n")
    wrong = [r for r in results if r.status != "passed"]
    for result in wrong:
        sys.stdout.write(f"{result}\n")
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
