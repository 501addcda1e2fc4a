"""Shows the plan of a run as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .screen import escape

_SMALL = 0.01  # share of the traffic below which a part isn't named


def show_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """Prints a plan and what it assumes."""
    machine = plan["machine"]
    where = f"{machine['devices']} x {machine['title']}" + (f" in {machine['hosts']} hosts" if machine["hosts"] > 1 else "")
    table = Table("", "", box=None, show_header=False)
    for name, value in {**_step(plan), **_work(plan), **_time(plan)}.items():
        table.add_row(name, escape(value))
    console.print(escape(f"{plan['config']} on {where}: compiled, not run"), highlight=False)
    console.print(table)
    console.print("It assumes", *(f"  {line}" for line in plan["assumptions"]), sep="\n", soft_wrap=True, highlight=False)


def _step(plan: Mapping[str, Any]) -> dict[str, str]:
    step, memory, mesh = plan["step"], plan["memory_gib"], plan["machine"]["mesh"]
    among = f", contrasted among {step['negatives']}," if step["negatives"] else ""
    split = "" if step["micro_batch"] == step["batch_size"] else f" as micro-batches of {step['micro_batch']}{among}"
    tried = [f"{_way(each)}: {each['peak_gib']:.1f} GiB" for each in step["tried"]]
    parts = ("weights", "moments", "extra", "batch", "temporaries")
    rows = {
        "fits": f"yes: {memory['peak']:.1f} of {memory['usable']:.1f} GiB; of {memory['device']:.1f} GiB JAX takes "
        f"{plan['machine']['share']:.0%}, less 5 % for gaps and workspaces",
        "a step": f"{step['batch_size']} pairs{split} {'with' if step['remat'] else 'without'} model.remat, in {step['compute_dtype']}",
        "memory, GiB": ", ".join(f"{name} {memory[name]:.2f}" for name in parts if memory[name]),
    }
    if len(mesh) and any(size > 1 for size in mesh.values()):
        rows["mesh"] = ", ".join(f"{name} {size}" for name, size in mesh.items())
    if len(tried) > 1:
        rows["tried"] = "; ".join(tried)
    return rows


def _way(tried: Mapping[str, Any]) -> str:
    return f"{tried['micro_batch']} pairs at once{' with model.remat' if tried['remat'] else ''}"


def _work(plan: Mapping[str, Any]) -> dict[str, str]:
    devices, total = plan["machine"]["devices"], plan["bytes"]
    each = " a device" if devices > 1 else ""
    parts = {name: size for name, size in plan["bytes_by_part"].items() if size >= _SMALL * total}
    cudnn = plan["cudnn"]["calls"]
    return {
        f"TFLOP{each}": f"{plan['flops'] / 1e12:.2f}; by formula {plan['formula_flops'] / 1e12:.2f}{' on all devices' * (devices > 1)}",
        f"GB moved{each}": f"{total / 1e9:.1f} by {plan['kernels']} kernels: "
        + ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items()),
        "products": ", ".join(f"{count} in {precision}" for precision, count in plan["products"].items()),
        "cuDNN attention": f"{cudnn} calls" if cudnn else "no call: attention is plain XLA",
        f"exchanged{each}": "; ".join(map(_exchange, plan["collectives"])) or "nothing",
    }


def _exchange(row: Mapping[str, Any]) -> str:
    hosts = " across hosts" if row["across_hosts"] else ""
    return f"{row['count']} {row['kind']} of {row['dtype']} among {row['devices']}{hosts}, {row['bytes'] / 1e6:.1f} MB"


def _time(plan: Mapping[str, Any]) -> dict[str, str]:
    run, loader, machine = plan["run"], plan["loader"], plan["machine"]
    cores = f"{loader['cores_a_host']} core{'s' * (loader['cores_a_host'] > 1)}"
    seconds = [1000 * value for value in plan["seconds_a_step"]]
    return {
        "ms a step": _range(seconds, ".1f"),
        "pairs/s": _range(plan["pairs_a_second"], ",.0f"),
        "the run": f"{run['steps']:,} steps, {run['epochs']:.3g} epochs of {run['clips']:,} clips: {_range(run['hours'], '.3g')} hours, "
        f"{_range(run['gpu_hours'], '.3g')} GPU-hours",
        "the loader must give": f"{loader['pairs_a_second_and_host']:,.0f} pairs/s{' on each host' if machine['hosts'] > 1 else ''}: "
        f"{cores} at {loader['pairs_a_second_and_core']:,} pairs a second and core",
    }


def _range(values: Sequence[float], form: str) -> str:
    return f"{values[0]:{form}} to {values[1]:{form}}"
