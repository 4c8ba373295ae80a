"""Results files made by hand."""

import json

from mlx_diffucoder.bench.report import VERSION

TIME = {"seconds": 0.02, "low": 0.01, "high": 0.03, "trials": 5}
SPREAD = {"median": 50.0, "low": 40.0, "high": 60.0}


def answer():
    return {
        "prompt_tokens": 9,
        "useful_tokens": 24,
        "nfe": 3,
        "positions": 120,
        "time": TIME,
        "first_settled": TIME,
        "peak_memory_bytes": 10**9,
        "roofline_share": 0.5,
    }


def decoder(name, kind, ratio=SPREAD):
    return {
        "name": name,
        "kind": kind,
        "assumed_tokens_per_forward": None,
        "useful_tokens_per_second": SPREAD,
        "ratio": ratio,
        "nfe": 3,
        "positions": 120,
        "useful_tokens": 24,
        "tokens_per_forward": 8.0,
        "positions_per_useful_token": 5.0,
        "generations": [answer()],
    }


def unshared(value):
    """A copy in which no two parts are one object."""
    return json.loads(json.dumps(value))


def made_report():
    """What the file of a run holds, with numbers by hand."""
    return unshared(
        {
            "version": VERSION,
            "program": "mlx_diffucoder 0",
            "made": "2030-01-01T00:00:00+00:00",
            "card": {
                "chip": "Abacus",
                "backend": "CPU",
                "gpu_cores": None,
                "memory_bytes": 2**34,
                "system": "Linux 6",
                "mlx": "0.32",
            },
            "ceilings": {"bandwidth": 1e11, "flops": 1e12, "overhead": 0.0, "source": "table"},
            "model": {
                "name": "pocket",
                "random": False,
                "weights": "0" * 64,
                "shape": {"num_hidden_layers": 2},
                "parameters": 1000,
                "bytes": 4000,
                "forward_parameters": 900,
                "forward_bytes": 3600,
                "bits_per_weight": 32.0,
                "dtype": "float32",
            },
            "config": {"max_tokens": 64, "seed": 0},
            "prompts": ["hi"],
            "trials": 5,
            "delay_seconds": 0.0,
            "forwards": [{"rows": width, "time": TIME, "roofline_share": 0.4} for width in (1, 8, 64)],
            "step": {
                "step": TIME,
                "parts": {"forward": 0.015, "lm_head": 0.003, "sampling": 0.001, "host": 0.001},
                "sum_over_step": {"median": 1.0, "low": 0.9, "high": 1.1},
                "gap": TIME,
                "encoding": TIME,
                "prompt": 9,
                "steps": 7,
            },
            "decoders": [
                decoder("mlx-lm, same weights", "autoregressive"),
                decoder("reference", "reference"),
                decoder("diffucode, balanced", "diffusion"),
            ],
        }
    )
