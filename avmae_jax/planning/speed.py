"""Bounds the seconds of a step: each kernel takes the longer of its arithmetic and its traffic, at what GPUs usually reach."""

import dataclasses

from avmae_jax.planning.cost import Cost, Kernel
from avmae_jax.planning.gpus import Gpu

NETWORK = 50e9  # bytes a second of each GPU to other hosts: a 400 Gbit/s adapter each


@dataclasses.dataclass(frozen=True)
class Pace:
    """Says which shares of a GPU's rates a program reaches."""

    products: float  # of the rate of matrix products
    attention: float  # of the same, in cuDNN's attention
    bandwidth: float  # of the memory's
    link: float  # of NVLink's, or of the network's between hosts
    shortest: float  # seconds of the shortest kernel
    overlaps: bool  # whether exchanges between devices run beside the arithmetic


FAST = Pace(0.6, 0.3, 0.9, 0.8, 2e-6, overlaps=True)
SLOW = Pace(0.4, 0.15, 0.78, 0.4, 4e-6, overlaps=False)


def seconds(cost: Cost, gpu: Gpu, pace: Pace) -> float:
    """Computes the seconds of a step at a pace, without waiting for data or for the host."""
    computing = sum(kernel.count * max(_arithmetic(kernel, gpu, pace), kernel.bytes / (pace.bandwidth * gpu.bandwidth), pace.shortest)
                    for kernel in cost.kernels)  # fmt: skip
    sending = sum(each.count * each.sent / (pace.link * (NETWORK if each.across_hosts else gpu.chip.link)) for each in cost.collectives)
    return max(computing, sending) if pace.overlaps else computing + sending


def assumptions(gpu: Gpu) -> list[str]:
    """Words what `seconds` assumes, the fast pace first."""
    products, link = gpu.chip.products / 1e12, gpu.chip.link / 1e9
    return [
        f"products at {FAST.products:.0%} to {SLOW.products:.0%} of {products:.0f} TFLOP/s in bfloat16, half of it in float32 (TF32)",
        f"attention at {FAST.attention:.0%} to {SLOW.attention:.0%} of the same",
        f"memory at {FAST.bandwidth:.0%} to {SLOW.bandwidth:.0%} of {gpu.bandwidth / 1e12:.2f} TB/s",
        f"no kernel shorter than {FAST.shortest * 1e6:.0f} to {SLOW.shortest * 1e6:.0f} microseconds",
        f"devices exchange at {FAST.link:.0%} of {link:.0f} GB/s beside the arithmetic, to {SLOW.link:.0%} after it; "
        f"between hosts, of {NETWORK / 1e9:.0f} GB/s a device",
        "no waiting for data; evaluation, figures and checkpoints not counted",
    ]


def _arithmetic(kernel: Kernel, gpu: Gpu, pace: Pace) -> float:
    if kernel.kind == "attention":
        return kernel.flops / (pace.attention * gpu.chip.products)
    rates = {"f32": gpu.chip.products / 2, "f32 highest": gpu.float32, "f64": gpu.float32 / 2}
    return kernel.flops / (pace.products * rates.get(kernel.precision, gpu.chip.products))
