"""The self-tests of compiled code: they accept what the sources say, and find what a wrong compiler makes of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnlab.batch_norm.back_ends import kernel
from bnlab.stacked.compiled import c_functions

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

# In kernel.c: each has its mistake in one place of one of the two passes and two layouts.
KERNEL = {
    "a field that Python does not know": (
        "void *running_mean, *running_var;",
        "void *running_mean, *running_var, *more;",
    ),
    "the variance that is returned": ("unbiased_var[c] = (T)square[c]", "unbiased_var[c] = (T)sum[c]"),
    "fields that have changed places": ("int64_t K, N, C, L, threads;", "int64_t K, C, N, L, threads;"),
    "eps is forgotten": ("1 / sqrt(var + eps)", "1 / sqrt(var)"),
    "the running variance is biased": ("square[c] = var * unbias", "square[c] = var"),
    "rows of a group": ("n + 16 <= rows; n += 16) OF(add_rows)", "n + 16 <= rows; n += 17) OF(add_rows)"),
    "the bias gradient": ("grad_bias[c] = (T)sum_g[c]", "grad_bias[c] = (T)sum_gc[c]"),
    "lanes of the gradient": ("a[0] += a[lane], b[0]", "a[0] -= a[lane], b[0]"),
    "does nothing": ("void OF(run)(const Problem *p) {", "void OF(run)(const Problem *p) { return;"),
    "crashes": ("void OF(run)(const Problem *p) {", "void OF(run)(const Problem *p) { *(volatile int *)8 = 0;"),
}
STEP = {
    "a field that Python does not know": ("int64_t num_pieces, nesterov", "int64_t num_pieces, more, nesterov"),
    "fields that have changed places": ("int64_t num_pieces, nesterov", "int64_t nesterov, num_pieces"),
    "ReLU": ("y[i] <= 0 ? 0 : g[i]", "y[i] < -1 ? 0 : g[i]"),
    "the bias": ("y[n * out + c] += bias[c]", "y[n * out + c] -= bias[c]"),
    "the transposed weight": (
        "OF(product)(out, in, N, g, 1, out, x, grad_weight)",
        "OF(product)(out, in, N, g, out, 1, x, grad_weight)",
    ),
}


def outcome(source: Path, edit: tuple[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Of the self-test beside the source, on what is compiled from an edited copy."""
    for path in source.parent.glob("*.c"):
        shutil.copy(path, folder)
    copy = folder / source.name
    assert edit[0] in copy.read_text()
    copy.write_text(copy.read_text().replace(*edit))
    made = folder / "made.so"
    native = ["-march=native"] if source.name == "step.c" else []  # whose vectors are wider
    subprocess.run(["cc", "-O0", "-shared", "-fPIC", *native, "-o", made, copy, "-lm"], check=True)
    check = source.with_name(f"{source.stem}_check.py")
    return subprocess.run([sys.executable, "-I", "-S", check, made], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("source", [kernel.SOURCE, c_functions.SOURCE], ids=lambda source: source.name)
def test_what_the_source_says_is_accepted(source: Path, tmp_path: Path) -> None:
    done = outcome(source, ("int64_t", "int64_t"), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("source", "edit"),
    [(kernel.SOURCE, edit) for edit in KERNEL.values()] + [(c_functions.SOURCE, edit) for edit in STEP.values()],
    ids=[*KERNEL, *(f"{name} (step)" for name in STEP)],
)
def test_wrong_code_is_found(source: Path, edit: tuple[str, str], tmp_path: Path) -> None:
    done = outcome(source, edit, tmp_path)
    assert done.returncode != 0
    assert " is " in done.stderr or done.returncode < 0  # which result, or a signal
