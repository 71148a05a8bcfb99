"""What the one dial `size` sets. A file, LLMAGENTOS_HOME and overrides go on top."""

from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {
        "training": {"threads": 4, "batch_tokens": 4096},
        "engine": {"threads": 4, "max_batch_tokens": 1024},
        "update": {"learning_rate": 3e-4, "epochs": 4, "max_steps": 2000, "rounds": 1, "reward": {"learning_rate": 1e-4}},
        "distill": {"rounds": 1, "depth": 0.25},
        "evaluate": {"threads": 4, "batch_tokens": 8192},
    },
    "gpu": {
        "model": {"dtype": "bfloat16", "max_length": 4096},
        "serve": {"replica_cpus": 2, "replica_gpus": 1, "max_ongoing": 256, "max_queued": 128},
        "engine": {"name": "vllm", "max_batch_tokens": 8192, "num_blocks": 4096},
        "training": {
            "gpus_per_worker": 1,
            "zero_stage": 2,
            "precision": "bf16",
            "batch_tokens": 65536,
            "packing": "packed",
            "compile": True,
        },
        "update": {
            "learning_rate": 1e-4,
            "epochs": 2,
            "max_steps": 5000,
            "rounds": 1,
            "lora": {"enabled": True},
            "reward": {"learning_rate": 2e-5},
        },
        "distill": {"learning_rate": 1e-4, "epochs": 1, "max_steps": 5000, "rounds": 1, "top_k": 64, "depth": 0.25},
        "evaluate": {"batch_tokens": 65536, "gpus": 1},
    },
}
