"""Describes the GPUs that a step can be compiled for without having one.

XLA compiles for a description of a device, a `GpuTargetConfigProto`. JAX's wheels hold such descriptions, but nothing public of JAX gives
them by name. The numbers here are those of openxla/xla, xla/backends/gpu/target_config/specs (h100_sxm, h200, a100_sxm_40, a100_sxm_80),
Copyright The OpenXLA Authors, Apache License 2.0. The rates of matrix products and of NVLink are those of NVIDIA's data sheets, dense.
"""

import dataclasses
import difflib

from avmae_jax.errors import ConfigError

# What XLA's descriptions of all four have in common. cuDNN is the oldest one with every kernel that JAX calls; that of the wheels is newer.
_COMMON = """
threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 threads_per_core_limit: 2048
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
registers_per_core_limit: 65536 registers_per_block_limit: 65536
thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
device_vendor: "NVIDIA Corporation" device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true
driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0" cub_version: "3.1.2"
"""
_DNN = "dnn_version_info { major: 9 minor: 10 patch: 0 }"
_OF_DEVICE = 0.8  # what XLA takes of a described device's memory for a program; on a real one it takes all that JAX's allocator has


@dataclasses.dataclass(frozen=True)
class Chip:
    """Holds what GPUs of one architecture share."""

    capability: tuple[int, int]
    feature: str  # feature_extension of the description
    cores: int
    float32_units: int  # a core
    clock_ghz: float
    cache: int  # bytes of L2
    shared_memory: int  # bytes a core
    shared_memory_optin: int  # of which a block may have this
    products: float  # floating-point operations a second in bfloat16 products; TF32 has half of them
    link: float  # bytes a second each way over NVLink, to all other GPUs of the host together


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Describes a kind of GPU."""

    title: str  # as JAX calls the device
    memory: int  # bytes
    bandwidth: float  # bytes a second of its memory
    chip: Chip

    @property
    def float32(self) -> float:
        """Returns the operations a second in float32 products outside the tensor cores."""
        return 2 * self.chip.cores * self.chip.float32_units * self.chip.clock_ghz * 1e9

    def description(self, share: float) -> str:
        """Writes the text of the GpuTargetConfigProto of a GPU on which JAX's allocator has this share of the memory."""
        chip, (major, minor) = self.chip, self.chip.capability
        device = f"""
gpu_device_info {{ {_COMMON}
  core_count: {chip.cores} fpus_per_core: {chip.float32_units} clock_rate_ghz: {chip.clock_ghz}
  memory_bandwidth: {self.bandwidth:.0f} device_memory_size: {share / _OF_DEVICE * self.memory:.0f} l2_cache_size: {chip.cache}
  shared_memory_per_core: {chip.shared_memory} shared_memory_per_block_optin: {chip.shared_memory_optin}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {chip.feature} }}
  platform_version: "Compute Capability {major}.{minor}" name: "{self.title}"
}}"""
        return f'{device} platform_name: "CUDA" {_DNN} device_description_str: "{self.title}"'


_HOPPER = Chip((9, 0), "ACCELERATED_FEATURES", 132, 128, 1.98, 52_428_800, 233_472, 232_448, 989e12, 450e9)
_AMPERE = Chip((8, 0), "NONE", 108, 64, 1.41, 41_943_040, 167_936, 166_912, 312e12, 300e9)

GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_942_979_072, 3.35232e12, _HOPPER),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 151_397_597_184, 4.8e12, _HOPPER),
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", 42_331_013_120, 1.5552e12, _AMPERE),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", 85_100_068_864, 2.03904e12, _AMPERE),
}
UNPUBLISHED = ("l40s", "rtx4090", "t4")  # asked for often; XLA has no description of them


def find_gpu(name: str) -> Gpu:
    """Returns the GPU of this name.

    Raises:
      ConfigError: if it is unknown, or XLA has no public description of it; lists those that there are.
    """
    if name in GPUS:
        return GPUS[name]
    listed = ", ".join(GPUS)
    if name in UNPUBLISHED:
        raise ConfigError(
            f"gpu is {name!r}, which can't be planned for: XLA publishes no description of {', '.join(UNPUBLISHED)}; choose one of {listed}"
        )
    near = difflib.get_close_matches(name, GPUS, cutoff=0.4)
    raise ConfigError(f"gpu is {name!r}, which is unknown; choose one of {listed}{f' (nearest: {near[0]})' if near else ''}")
