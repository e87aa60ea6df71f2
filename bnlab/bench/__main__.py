"""`python -m bnlab.bench NAME [options]`: run the benchmark in `bnlab/bench/NAME.py`."""

import sys
from importlib import import_module

BENCHMARKS = ("batch_norm", "chaos", "search", "sweep", "train")


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in BENCHMARKS:
        given = f"got '{arguments[0]}'" if arguments else "none was given"
        print(f"The benchmark must be one of {', '.join(BENCHMARKS)}, but {given}.", file=sys.stderr)
        raise SystemExit(2)
    import_module(f"bnlab.bench.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
