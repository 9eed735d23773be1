"""gpt_jax: the whole ChatGPT recipe in JAX."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="gpt_jax",
    version="0.1.0",
    description="The whole ChatGPT recipe in JAX: pretraining, SFT, reward model, PPO",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["gpt_jax", "gpt_jax.*", "experiments", "experiments.*", "tools", "tools.*"]
    ),
    package_data={
        "gpt_jax.labels": ["page.html"],
        "gpt_jax.plan": ["chip_descriptions/*.txtpb"],
        "gpt_jax.serve": ["page.html", "*.css", "*.js"],
    },
    install_requires=[
        "array-record>=0.5",
        "chex>=0.1.90",
        "etils[epath]>=1.12",
        "flax>=0.12",
        "importlib-resources>=6",  # tensorflow-datasets imports it and does not say so
        "jax>=0.10,<0.12",
        "matplotlib>=3.8",
        "ml-dtypes>=0.5",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11",
        "rich>=13",
        "scikit-learn>=1.4",
        "tensorflow-datasets>=4.9.8",
        "tokenizers>=0.21",
        "tyro>=0.9",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "cuda": ["jax[cuda13]>=0.10,<0.12"],
        # Compilers for accelerators that need not be there; an installed plugin must be JAX's age.
        # nvcc and nvvm are CUDA's assembler and its mathematical library: 120 MB, not gigabytes.
        "plan": [
            "libtpu",
            "jax-cuda13-plugin>=0.10,<0.12",
            "jax-cuda13-pjrt>=0.10,<0.12",
            "nvidia-cuda-nvcc>=13",
            "nvidia-nvvm>=13",
        ],
        # Models from elsewhere: the hub, llama.cpp's files, the chat templates that they bring.
        "pretrained": ["gguf>=0.17", "huggingface_hub>=0.30", "jinja2>=3.1"],
        # Parquet files, .zst files and Hugging Face's data sets; each is imported when it is used.
        "data": ["datasets>=3", "pyarrow>=15", "zstandard>=0.22"],
        # JSON Schemas as verifiers.
        "rewards": ["jsonschema>=4.18"],
        # The rating that experiments.sentiment learns from.
        "sentiment": ["vaderSentiment>=3.3"],
        # Brings older versions of what others need: in an environment of its own.
        "beam": ["apache-beam>=2.60"],
        # Output that fits a JSON schema, a regular expression or a grammar.
        "constraints": ["llguidance>=1.0"],
        # EleutherAI's benchmarks on our models.
        "lm-eval": ["lm-eval>=0.4.9"],
        # A graph of vectors, for retrieval from many documents.
        "retrieval": ["faiss-cpu>=1.9"],
        # OpenAI's interface over HTTP, and the page.
        "serve": ["llguidance>=1.0", "prometheus_client>=0.20", "starlette>=0.40", "uvicorn>=0.30"],
        "tensorboard": ["tensorboardX>=2.6"],
        "wandb": ["wandb>=0.17"],
        "test": [
            "datasets>=3",
            "faiss-cpu>=1.9",
            "httpx>=0.27",
            "hypothesis>=6",
            "jinja2>=3.1",
            "jsonschema>=4.18",
            "ipykernel>=6",
            "llguidance>=1.0",
            "nbclient>=0.10",
            "nbformat>=5",
            "openai>=1.50",
            "prometheus_client>=0.20",
            "pytest>=8",
            "pytest-xdist>=3.7",
            "starlette>=0.40",
            "tensorboardX>=2.6",
            "uvicorn>=0.30",
            "vaderSentiment>=3.3",
            "zstandard>=0.22",
        ],
        # torch is pinned: a later one would bring gigabytes of CUDA to a CPU machine.
        # accelerate is what transformers asks for to read GGUF.
        "parity": [
            "accelerate>=1",
            "gguf>=0.17",
            "huggingface_hub>=0.30",
            "peft>=0.21",
            "safetensors>=0.5",
            "sentencepiece>=0.2",
            "torch==2.13.0",
            "transformers>=5.0",
            "trl==1.16.0",  # its losses are called by the names of their methods
        ],
        "dev": ["ruff>=0.11"],
    },
)
