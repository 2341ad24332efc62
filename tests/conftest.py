"""Test set-up, before JAX starts: eight virtual CPU devices, a persistent compilation cache, strict shapes and types."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

NUM_DEVICES = 8
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", str(2 * NUM_DEVICES))  # fewer host threads than this deadlock collectives on jax 0.10 and 0.11
FLAGS = [f"--xla_force_host_platform_device_count={NUM_DEVICES}", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib") < "0.11":
    # with one code generator, compiling takes half the time; later versions know this flag no more, and end at unknown ones
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir()) / "decoder_lab_test_xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling is most of the time of tests
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

gc.set_threshold(200_000, 50, 100)  # tracing makes many objects that live on: looking through them for garbage is a tenth of the time

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache_directory(tmp_path_factory, monkeypatch):
    """Tokenised data of tests never lands in, or comes from, the user's own cache."""
    monkeypatch.setenv("DECODER_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def strict_numerics():
    """Implicit rank promotion and dtype promotion are errors; for tests of `ops` and `layers`."""
    import jax

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
