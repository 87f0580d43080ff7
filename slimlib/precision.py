"""The arithmetic of training: float32, or bfloat16 where the hardware computes with it natively."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """"float32" or "bfloat16": what ``precision`` means on a device. On a CPU without bfloat16 units it would be slower."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return "bfloat16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"
    return "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Automatic mixed precision in bfloat16, or nothing. It needs no loss scaling: its range is that of float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
