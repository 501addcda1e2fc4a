"""Tests what is counted in the text of a compiled program."""

import numpy as np
import pytest

from avmae_jax.planning import hlo, speed
from avmae_jax.planning.cost import Cost, Kernel, cost_of, groups_of
from avmae_jax.planning.gpus import GPUS

# Pieces of a program that XLA compiled for eight H100s, shortened: a loop of three turns with a product, attention, kernels, exchanges.
TEXT = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias) }, num_partitions=8

FileNames
1 "step.py"

FunctionNames
1 "step"
2 "LinearGeneral.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=2 end_column=9}
2 {file_name_id=1 function_name_id=2 line=9 end_line=9 column=2 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}


%region_0.0 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_gelu (param_0: bf16[64,512]) -> bf16[64,512] {
  %param_0 = bf16[64,512]{1,0} parameter(0)
  ROOT %erf.1 = bf16[64,512]{1,0} erf(%param_0)
}

%fused_sums (param_0.1: bf16[64,512]) -> f32[512] {
  %param_0.1 = bf16[64,512]{1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %reduce.1 = f32[512]{0} reduce(%param_0.1, %zero), dimensions={0}, to_apply=%region_0.0
}

%fused_update (param_0.2: f32[12,64,8], param_1.2: f32[1,64,8], param_2.2: s32[]) -> f32[12,64,8] {
  %param_0.2 = f32[12,64,8]{2,1,0} parameter(0)
  %param_1.2 = f32[1,64,8]{2,1,0} parameter(1)
  %param_2.2 = s32[] parameter(2)
  ROOT %update = f32[12,64,8]{2,1,0} dynamic-update-slice(%param_0.2, %param_1.2, %param_2.2, %param_2.2, %param_2.2)
}

%body (state: (s32[], f32[64,257], f32[257,128])) -> (s32[], f32[64,257], f32[257,128]) {
  %state = (s32[], f32[64,257]{1,0}, f32[257,128]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %left = f32[64,257]{1,0} get-tuple-element(%state), index=1
  %right = f32[257,128]{1,0} get-tuple-element(%state), index=2
  %exact = f32[64,128]{1,0} dot(%left, %right), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}
  ROOT %next = (s32[], f32[64,257]{1,0}, f32[257,128]{1,0}) tuple(%number, %left, %right)
}

%condition (state.1: (s32[], f32[64,257], f32[257,128])) -> pred[] {
  %state.1 = (s32[], f32[64,257]{1,0}, f32[257,128]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main.0_spmd (tokens: bf16[64,128], kernel: bf16[128,512], query: bf16[4,18,2,8]) -> (bf16[64,512], f32[]) {
  %tokens = bf16[64,128]{1,0} parameter(0), sharding={devices=[8,1]<=[8]}
  %kernel = bf16[128,512]{1,0} parameter(1)
  %query = bf16[4,18,2,8]{3,2,1,0} parameter(2)
  %matmul = (bf16[64,512]{1,0}, s8[4194304]{0}) custom-call(%tokens, %kernel), custom_call_target="__cublas$lt$matmul", \
metadata={op_name="jit(step)/dot_general" stack_frame_id=2}, backend_config={"gemm_backend_config":{"beta":0,"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]}}}
  %product = bf16[64,512]{1,0} get-tuple-element(%matmul), index=0
  %forward = (bf16[4,2,18,8]{3,1,2,0}, f32[4,2,18]{2,1,0}, u8[4096]{0}) custom-call(%query, %query, %query), \
custom_call_target="__cudnn$fmhaSoftmax"
  %backward = (bf16[4,2,18,8]{3,1,2,0}, bf16[4,2,18,8]{3,1,2,0}, bf16[4,2,18,8]{3,1,2,0}, u8[0]{0}) custom-call(%query, %query, %query), \
custom_call_target="__cudnn$fmhaSoftmaxBackward"
  %gelu = bf16[64,512]{1,0} fusion(%product), kind=kLoop, calls=%fused_gelu
  %sums = f32[512]{0} fusion(%gelu), kind=kInput, calls=%fused_sums, metadata={op_name="jit(step)/reduce_sum" stack_frame_id=2}
  %reduced = f32[512]{0} all-reduce-start(%sums), channel_id=1, replica_groups=mesh['data'=4,'tensor'=2] {'data'}, to_apply=%region_0.0
  %done = f32[512]{0} all-reduce-done(%reduced)
  %gathering = (bf16[64,128]{1,0}, bf16[512,128]{1,0}) all-gather-start(%tokens), replica_groups=[1,8]<=[8], dimensions={0}
  %gathered = bf16[512,128]{1,0} all-gather-done(%gathering)
  %turns = (s32[], f32[64,257]{1,0}, f32[257,128]{1,0}) while(%begin), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %stacked = f32[12,64,8]{2,1,0} fusion(%old, %new, %place), kind=kLoop, calls=%fused_update
  %begin = (s32[], f32[64,257]{1,0}, f32[257,128]{1,0}) tuple(%place, %old, %new)
  %old = f32[12,64,8]{2,1,0} parameter(3)
  %new = f32[1,64,8]{2,1,0} parameter(4)
  %place = s32[] parameter(5)
  ROOT %out = (bf16[64,512]{1,0}, f32[512]{0}) tuple(%gelu, %done)
}
"""


@pytest.fixture(scope="module")
def cost() -> Cost:
    return cost_of(hlo.parse(TEXT), devices=8, hosts=2)


def of_part(cost: Cost, part: str) -> list[Kernel]:
    return [kernel for kernel in cost.kernels if kernel.part == part]


def test_products_are_counted_with_their_loops_and_precision(cost: Cost) -> None:
    library, exact = of_part(cost, "product")
    assert (library.flops, library.count, library.precision) == (2 * 64 * 128 * 512, 1, "bf16")
    assert library.bytes == 2 * (64 * 128 + 128 * 512 + 64 * 512)  # without the workspace of cuBLAS
    assert (exact.flops, exact.count, exact.precision) == (2 * 64 * 257 * 128, 3, "f32 highest")
    attention = 4 * 4 * 2 * 18**2 * 8
    assert cost.flops == library.flops + 3 * exact.flops + 3.5 * attention


def test_calls_of_cudnn_are_counted_by_their_queries(cost: Cost) -> None:
    assert cost.cudnn_calls() == {"4 x 18 x 2 x 8": 2}


def test_traffic_is_divided_among_the_parts_of_a_step(cost: Cost) -> None:
    assert [kernel.bytes for kernel in of_part(cost, "GELU")] == [2 * 2 * 64 * 512]
    assert [kernel.bytes for kernel in of_part(cost, "bias gradients")] == [2 * 64 * 512 + 4 * 512]  # known by the function of the source
    assert cost.bytes == sum(cost.by_part.values())


def test_what_is_updated_in_place_moves_the_update_alone(cost: Cost) -> None:
    assert [kernel.bytes for kernel in of_part(cost, "the rest")] == [2 * 4 * 64 * 8 + 4]


def test_exchanges_are_counted_by_kind_devices_and_hosts(cost: Cost) -> None:
    reduced, gathered = cost.collectives
    assert (reduced.kind, reduced.devices, reduced.bytes, reduced.across_hosts) == ("all-reduce", 4, 2048, True)
    assert reduced.sent == 2 * 3 / 4 * 2048
    assert (gathered.kind, gathered.devices, gathered.bytes) == ("all-gather", 8, 2 * 512 * 128)
    assert gathered.sent == 7 / 8 * gathered.bytes


def test_aliased_results_are_counted() -> None:
    assert hlo.parse(TEXT).aliased == 2


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'c'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", [[3, 2], [1, 0]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups={{0,3},{1,2}}, x", [[0, 3], [1, 2]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_are_read_in_every_form(text: str, groups: list[list[int]]) -> None:
    np.testing.assert_array_equal(groups_of(text, 4), groups)


@pytest.mark.parametrize("text", ["replica_groups=mesh['a'=4], device_ids=(x) {'a'}", "replica_groups=everyone"])
def test_an_unknown_form_of_groups_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown form"):
        groups_of(text, 4)


def test_a_text_without_a_program_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing")


def test_the_seconds_of_a_step_are_those_of_its_slowest_resources(cost: Cost) -> None:
    gpu = GPUS["h100"]
    large = Kernel("product", "product", 1, 1e15, 1e9, "bf16")
    moved = Kernel("other", "the rest", 2, 0, 1e12)
    alone = Cost([large, moved], [])
    assert speed.seconds(alone, gpu, speed.FAST) == pytest.approx(1e15 / (0.6 * 989e12) + 2e12 / (0.9 * gpu.bandwidth))
    assert speed.seconds(alone, gpu, speed.SLOW) > speed.seconds(alone, gpu, speed.FAST)
    tf32 = Cost([Kernel("product", "product", 1, 1e15, 1e9, "f32")], [])
    assert speed.seconds(tf32, gpu, speed.FAST) == pytest.approx(2 * 1e15 / (0.6 * 989e12))
    exact = Cost([Kernel("product", "product", 1, 1e15, 1e9, "f32 highest")], [])
    assert speed.seconds(exact, gpu, speed.FAST) == pytest.approx(1e15 / (0.6 * 66.9e12), rel=1e-3)
    assert speed.seconds(Cost([], cost.collectives), gpu, speed.SLOW) > speed.seconds(Cost([], cost.collectives), gpu, speed.FAST) > 0
